//! The faults, a file each. Each leaves what it found in its stage.

pub mod clock;
pub mod eio;
pub mod full_disk;
pub mod kill;
pub mod points;
pub mod power;
pub mod rot;
pub mod scarce;
pub mod term;
pub mod vanish;
