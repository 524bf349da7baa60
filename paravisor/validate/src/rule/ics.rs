//! ICS: integration components.

use super::rules;

rules! {}
