//! Rules by their examples.

mod packets;
mod remote_ndis;
mod virtual_switch;

use super::*;
