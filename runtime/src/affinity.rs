//! Which CPUs this process may use, and keeping a thread on one of them.

/// CPUs that this thread may run on, in ascending order; empty if the system does not say.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: a CPU set is plain bits, of which all zeros is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its size is stated.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    if result != 0 {
        return Vec::new();
    }
    let cpus = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: `cpu` is below the number of bits of the set.
    cpus.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Keeps the calling thread on `cpu`. A refusal is no error: the thread runs anywhere, slower.
pub(crate) fn pin(cpu: usize) {
    if cpu >= libc::CPU_SETSIZE as usize {
        return;
    }
    // SAFETY: as in `allowed_cpus`; `cpu` is within the set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// CPUs that the affinity mask and the control group's quota leave to this process.
pub(crate) fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
