//! LLVM where the system has no memory.

use std::ffi::{c_char, c_void};
use std::sync::Once;

type Handler = extern "C" fn(*mut c_void, *const c_char, bool);

// llvm/Support/ErrorHandling.h, which LLVM's C interface leaves out.
unsafe extern "C" {
    #[link_name = "_ZN4llvm31install_bad_alloc_error_handlerEPFvPvPKcbES0_"]
    fn install_bad_alloc_error_handler(handler: Handler, data: *mut c_void);
    #[link_name = "_ZN4llvm33install_out_of_memory_new_handlerEv"]
    fn install_out_of_memory_new_handler();
}

/// Has LLVM call `end` where the system has no memory for it, in place of aborting the process. Of
/// several calls the first counts.
pub fn on_out_of_memory(end: fn() -> !) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: both are called once, before LLVM works, and `called` gets the pointer that it
        // expects. It does not unwind into LLVM: `end` ends the process.
        unsafe {
            install_bad_alloc_error_handler(called, end as *mut c_void);
            install_out_of_memory_new_handler();
        }
    });
}

extern "C" fn called(end: *mut c_void, _reason: *const c_char, _diagnose: bool) {
    // SAFETY: this is the function that `on_out_of_memory` was given.
    let end: fn() -> ! = unsafe { std::mem::transmute(end) };
    end()
}
