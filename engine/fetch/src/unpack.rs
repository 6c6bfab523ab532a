//! Unpacks gzip bodies in memory: in one go where that is quick, in small steps where it would hold up the core.
//!
//! Invariants:
//!   * what is handed on is every member of the input, complete and with its checksum verified, or nothing
//!   * memory is taken in proportion to what was unpacked before, at most up to the limit; the size that the input says
//!     it has is never believed
//!   * no step between two yields unpacks more than [`ONE_GO_BYTES_MAX`]

use super::buffers::Buffer;
use super::{BodyLimit, FetchError};
use crate::Reason;
use flate2::bufread::MultiGzDecoder;
use libdeflater::{DecompressionError, Decompressor};
use std::cell::RefCell;
use std::io::Read;
use std::rc::Rc;

/// Largest body unpacked in one go: 2 to 4 ms of a core.
const ONE_GO_BYTES_MAX: usize = 4 << 20;
/// Beyond that, this much at a time.
const STEP_BYTES: usize = 256 << 10;
/// A body that unpacks to more than this times its packed size is no exposition. Deflate cannot exceed 1,032:1.
const RATIO_MAX: usize = 1000;
/// The ratio does not matter up to here.
const RATIO_FREE_BYTES: usize = 1 << 20;
/// A gzip header without optional fields, and what follows the data.
const MEMBER_HEADER_BYTES: usize = 10;

/// One core's unpacker. Cloning copies a pointer.
#[derive(Clone)]
pub struct Unpacker {
    decompressor: Rc<RefCell<Decompressor>>,
}

impl Default for Unpacker {
    fn default() -> Unpacker {
        Unpacker { decompressor: Rc::new(RefCell::new(Decompressor::new())) }
    }
}

impl Unpacker {
    /// Unpacks `packed` into `plain`. `bytes_last` is how long the target's last body was, 0 if not known.
    pub async fn gunzip(
        &self,
        packed: &[u8],
        plain: &mut Buffer,
        bytes_last: usize,
        limit: BodyLimit,
    ) -> Result<(), FetchError> {
        let ratio_bytes_max = packed.len().saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        let bytes_max = limit.bytes.min(ratio_bytes_max);
        let exceeded = || {
            if limit.bytes <= ratio_bytes_max {
                return limit.exceeded();
            }
            let text = format!("body size limit exceeded (gzip body unpacks to over {RATIO_MAX} times its size)");
            FetchError { reason: Reason::BodySize, text }
        };
        plain.grow_to((bytes_last + bytes_last / 8).min(bytes_max).min(ONE_GO_BYTES_MAX))?;
        loop {
            let one_go_bytes = plain.size().min(bytes_max).min(ONE_GO_BYTES_MAX);
            let out = &mut plain.spare()[..one_go_bytes];
            let outcome = self.decompressor.borrow_mut().gzip_decompress(packed, out);
            match outcome {
                Ok(bytes) if is_one_member(packed, bytes) => {
                    if bytes >= limit.bytes {
                        return Err(limit.exceeded());
                    }
                    plain.set_used(bytes);
                    return Ok(());
                }
                Err(DecompressionError::InsufficientSpace) if one_go_bytes == bytes_max => return Err(exceeded()),
                Err(DecompressionError::InsufficientSpace) if one_go_bytes < ONE_GO_BYTES_MAX => {
                    plain.grow(bytes_max.min(ONE_GO_BYTES_MAX))?;
                }
                // Several members, a large body, or a broken one: the slow way tells, and says what is wrong.
                _ => break,
            }
        }
        let mut stream = MultiGzDecoder::new(packed);
        loop {
            if plain.spare().is_empty() {
                if plain.size() >= bytes_max {
                    return Err(exceeded());
                }
                plain.grow(bytes_max)?;
            }
            let spare = plain.spare();
            let step_bytes = spare.len().min(STEP_BYTES);
            match stream.read(&mut spare[..step_bytes]) {
                Ok(0) => return Ok(()),
                Ok(count) => plain.set_used(plain.data().len() + count),
                Err(error) => return Err(decode_error(&error)),
            }
            if plain.data().len() >= bytes_max {
                return Err(exceeded());
            }
            glommio::yield_if_needed().await;
        }
    }
}

/// Whether the first member, which unpacked to `bytes` bytes, is all there is.
///
/// The unpacker does not say how much of the input it used. Where the input ends with the length of what came out and
/// nowhere else looks like the start of a member, there is no second one; in doubt the answer is no.
fn is_one_member(packed: &[u8], bytes: usize) -> bool {
    let ends_with_length = packed.ends_with(&(bytes as u32).to_le_bytes());
    ends_with_length && memchr::memmem::find(&packed[MEMBER_HEADER_BYTES..], b"\x1f\x8b\x08").is_none()
}

fn decode_error(error: &std::io::Error) -> FetchError {
    let text = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => format!("gzip: {error}"),
    };
    FetchError { reason: Reason::Decode, text }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::BufferPool;
    use super::*;
    use std::io::Write;

    pub fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn exposition(lines: usize) -> Vec<u8> {
        (0..lines).flat_map(|i| format!("metric_{}{{label=\"{i}\"}} {}\n", i % 7, i * i).into_bytes()).collect()
    }

    fn unpack(packed: &[u8], bytes_last: usize, limit: u64) -> Result<Vec<u8>, FetchError> {
        let pool = BufferPool::default();
        let mut plain = pool.plain().unwrap();
        let unpacker = Unpacker::default();
        let outcome =
            futures_lite::future::block_on(unpacker.gunzip(packed, &mut plain, bytes_last, BodyLimit::new(limit)));
        // Never more than the limit, what was there, or twice what came out.
        assert!(plain.size() <= (64 << 10).max(limit as usize).max(2 * bytes_last));
        outcome.map(|()| plain.data().to_vec())
    }

    /// `packed` gives `want` or fails with that text, whatever size is expected.
    #[track_caller]
    fn check(packed: &[u8], want: Result<&[u8], &str>) {
        for bytes_last in [0, 1, 1000, 10 << 20] {
            match (unpack(packed, bytes_last, 64 << 20), want) {
                (Ok(got), Ok(want)) => assert!(got == want, "{} bytes, want {}", got.len(), want.len()),
                (Err(error), Err(want)) => {
                    assert_eq!((error.reason, error.text.as_str()), (Reason::Decode, want));
                }
                (got, _) => panic!("{:?}, want {:?}", got.map(|got| got.len()), want.map(<[u8]>::len)),
            }
        }
    }

    #[test]
    fn one_member_is_unpacked_whatever_its_size() {
        for lines in [0, 1, 1000, 10_000, 300_000] {
            let plain = exposition(lines);
            check(&gzip(&plain), Ok(&plain));
        }
    }

    #[test]
    fn all_members_are_unpacked() {
        let (one, two) = (exposition(100), exposition(50));
        check(&[gzip(&one), gzip(&two)].concat(), Ok(&[one.clone(), two.clone()].concat()));
        // The same member twice: length and checksum at the end do not tell it from one.
        check(&[gzip(&one), gzip(&one)].concat(), Ok(&[one.clone(), one.clone()].concat()));
        check(&[gzip(b""), gzip(&two), gzip(b"")].concat(), Ok(&two));
    }

    #[test]
    fn bytes_that_look_like_a_member_are_data() {
        // Stored, not deflated, so that they appear in the packed body as they are.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(b"# \x1f\x8b\x08 \n").unwrap();
        check(&encoder.finish().unwrap(), Ok(b"# \x1f\x8b\x08 \n"));
    }

    #[test]
    fn a_body_cut_anywhere_fails() {
        let packed = gzip(&exposition(30));
        for end in 0..packed.len() {
            let error = unpack(&packed[..end], 0, 0).expect_err("cut body");
            assert_eq!(error, FetchError::new(Reason::Decode, "unexpected EOF"), "cut at {end}");
        }
        let two = [packed.clone(), packed.clone()].concat();
        for end in packed.len() + 1..two.len() {
            assert_eq!(unpack(&two[..end], 0, 0).expect_err("cut body").reason, Reason::Decode, "cut at {end}");
        }
    }

    #[test]
    fn broken_bodies_fail() {
        let packed = gzip(&exposition(30));
        let with = |at: usize| {
            let mut broken = packed.clone();
            broken[at] ^= 0x55;
            broken
        };
        check(&with(0), Err("gzip: invalid gzip header"));
        check(b"up 1\nup 1\nup 1\nup 1\n", Err("gzip: invalid gzip header"));
        let checksum = "gzip: corrupt gzip stream does not have a matching checksum";
        check(&with(packed.len() - 5), Err(checksum));
        check(&with(packed.len() - 1), Err(checksum));
        check(&[&packed[..], b"up 1\nup 1\n"].concat(), Err("gzip: invalid gzip header"));
        check(&[&packed[..], &[0; 20]].concat(), Err("gzip: invalid gzip header"));
    }

    #[test]
    fn flipped_bytes_give_an_error_or_the_same() {
        let plain = exposition(30);
        let packed = gzip(&plain);
        for bit in 0..packed.len() * 8 {
            let mut broken = packed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            // Some bits mean nothing: the time and system in the header, the padding of the last data byte.
            if let Ok(got) = unpack(&broken, 0, 1 << 20) {
                assert!(got == plain, "bit {bit}");
            }
        }
    }

    #[test]
    fn limit_fails_when_reached() {
        for bytes in [1000, 100_000, 6 << 20] {
            let plain = exposition(400_000)[..bytes].to_vec();
            let members = [gzip(&plain[..bytes / 2]), gzip(&plain[bytes / 2..])].concat();
            for packed in [gzip(&plain), members] {
                for bytes_last in [0, bytes] {
                    assert!(unpack(&packed, bytes_last, bytes as u64 + 1).unwrap() == plain);
                    for limit in [bytes, bytes - 1, bytes / 2, 1] {
                        let error = unpack(&packed, bytes_last, limit as u64).unwrap_err();
                        assert_eq!(error, FetchError::new(Reason::BodySize, "body size limit exceeded"), "{limit}");
                    }
                }
            }
        }
    }

    #[test]
    fn bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 70_000);
        assert_eq!(unpack(&bomb, 0, 8 << 20).unwrap_err().text, "body size limit exceeded");
        let want = "body size limit exceeded (gzip body unpacks to over 1000 times its size)";
        assert_eq!(unpack(&bomb, 0, 1 << 30).unwrap_err().text, want);
    }
}
