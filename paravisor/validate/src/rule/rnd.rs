//! Rules with prefix RND.

use super::rules;

rules! { Rnd
}
