//! Which loopback address is which target: the one place that knows the scheme.
//!
//! Target 0 is 127.1.0.1, target 1 is 127.1.0.2, and so on without gaps, so an index and an address are one number with
//! a different origin. 127.0.x.y is left to whatever else the machine runs there.

use std::net::Ipv4Addr;

/// The address of target 0.
pub const TARGET_FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// The last address used; 127.255.255.255 is the broadcast address and cannot be connected to.
const TARGET_LAST: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
/// How many targets the scheme has room for.
pub const TARGETS_MAX: usize = (TARGET_LAST.to_bits() - TARGET_FIRST.to_bits()) as usize + 1;

/// The address of a target; `None` past `TARGETS_MAX`.
pub fn address_of(target: usize) -> Option<Ipv4Addr> {
    (target < TARGETS_MAX).then(|| Ipv4Addr::from_bits(TARGET_FIRST.to_bits() + target as u32))
}

/// The target that an address stands for; `None` for addresses outside the scheme.
pub fn target_of(address: Ipv4Addr) -> Option<usize> {
    let inside = (TARGET_FIRST..=TARGET_LAST).contains(&address);
    inside.then(|| (address.to_bits() - TARGET_FIRST.to_bits()) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: usize, want: &str) {
        let address: Ipv4Addr = want.parse().unwrap();
        assert_eq!(address_of(target), Some(address));
        assert_eq!(target_of(address), Some(target));
    }

    #[test]
    fn an_index_and_its_address_are_one_number() {
        check(0, "127.1.0.1");
        check(254, "127.1.0.255");
        check(255, "127.1.1.0");
        check(9_999, "127.1.39.16");
        check(TARGETS_MAX - 1, "127.255.255.254");
    }

    #[test]
    fn addresses_outside_the_scheme_are_no_target() {
        for address in ["127.0.0.1", "127.1.0.0", "127.255.255.255", "10.0.0.1", "128.0.0.1"] {
            assert_eq!(target_of(address.parse().unwrap()), None, "{address}");
        }
        assert_eq!(address_of(TARGETS_MAX), None);
    }
}
