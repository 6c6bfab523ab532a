//! The few questions that only the kernel can answer, each behind a safe function.
#![expect(
    unsafe_code,
    reason = "system calls that no safe crate in use offers; each block passes owned, sized buffers"
)]

use std::io;

/// IORING_FEAT_EXT_ARG, since Linux 5.11: sleeping on a ring for a time.
const FEATURE_EXT_ARG: u32 = 1 << 8;

/// Asks the kernel for a ring and gives it back: whether io_uring may be used at all, and can what the cores need.
pub fn io_uring_probe() -> io::Result<()> {
    // struct io_uring_params is 120 bytes and all zero asks for the defaults.
    let mut params = [0u32; 30];
    // SAFETY: the kernel reads and writes exactly sizeof(struct io_uring_params) = 120 bytes at the pointer, which is
    // a live local array of that size; the returned descriptor is owned by us alone and closed below.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8u32, params.as_mut_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd was just returned to us and nobody else holds it.
    unsafe { libc::close(fd as libc::c_int) };
    // The kernel's answer: `features` is the sixth field.
    if params[5] & FEATURE_EXT_ARG == 0 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel is older than 5.11"));
    }
    Ok(())
}

/// Soft and hard limit of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// `RLIMIT_MEMLOCK` in bytes.
pub fn memlock_limit() -> io::Result<Limit> {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Raises the number of open files to the hard limit; returns the limit in force.
pub fn raise_open_files() -> io::Result<Limit> {
    let now = limit(libc::RLIMIT_NOFILE)?;
    let wanted = libc::rlimit { rlim_cur: now.hard, rlim_max: now.hard };
    // SAFETY: the pointer is to a live, initialised struct rlimit that the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit(libc::RLIMIT_NOFILE)
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<Limit> {
    let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct rlimit that the call fills.
    if unsafe { libc::getrlimit(resource, &mut value) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { soft: value.rlim_cur, hard: value.rlim_max })
}

/// The CPUs that this process may run on, ascending.
pub fn usable_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size passed is that of the live set that the call fills.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CPU_ISSET only reads the set, and every index is below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// CPU seconds that the calling thread has used.
pub fn thread_cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec that the call fills; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_answers() {
        io_uring_probe().unwrap();
        assert!(memlock_limit().unwrap().hard > 0);
        assert!(!usable_cpus().unwrap().is_empty());
        let before = thread_cpu_seconds();
        assert!((0..10_000_000u64).fold(0, u64::wrapping_add) > 0);
        assert!(thread_cpu_seconds() >= before);
    }
}
