//! Rules with prefix NVS.

use super::rules;

rules! { Nvs
}
