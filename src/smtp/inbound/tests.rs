use super::*;
use crate::smtp::script::{Script, refusal as policy};
