//! Spreading repeated requests, so that many processes do not knock at the same moment.

use std::time::Duration;

/// A small deterministic source of jitter: the same seed gives the same history.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Jitter that follows from this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between 80 % and 100 % of the duration: never later than promised.
    pub fn up_to(&mut self, duration: Duration) -> Duration {
        duration * (800 + self.below(201)) / 1000
    }

    /// A number below `bound` (`SplitMix64`, Steele, Lea and Flood 2014).
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        u32::try_from(z % u64::from(bound)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_shortens_by_at_most_a_fifth_and_never_lengthens() {
        let mut jitter = Jitter::new(7);
        let second = Duration::from_secs(1);
        let drawn: Vec<_> = (0..1000).map(|_| jitter.up_to(second)).collect();
        assert!(
            drawn
                .iter()
                .all(|d| *d <= second && *d >= Duration::from_millis(800))
        );
        assert!(drawn.iter().any(|d| *d != drawn[0]));
    }
}
