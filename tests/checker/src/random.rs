//! Chance that repeats: the same seed, the same choices.

use std::ops::RangeInclusive;

/// SplitMix64: small, and whatever the seed, good enough to choose with.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// That of one of several things with the same seed.
    pub fn of(seed: u64, name: &str) -> Self {
        Self(name.bytes().fold(seed, |seed, octet| (seed ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01B3)))
    }

    /// Any number.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One for somebody else, so that what one does changes nothing for the other.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// Less than `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// One of a range; its start if that is empty.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below((range.end() + 1).saturating_sub(*range.start()))
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// In `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }
}
