//! What a proxy does about the trace of every request allocates nothing where it writes no header.

#![expect(
    unsafe_code,
    reason = "an allocator is one; it passes everything on to the system's"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use http::HeaderMap;
use tradewind_transport::trace_context::{Ratio, Rule, TRACEPARENT, TRACESTATE, follow};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the count is a thread's own and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the same; whatever is freed here came from `alloc` above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

#[test]
fn a_trace_that_is_not_recorded_costs_no_allocation() {
    let rule = Rule {
        begin: Some(Ratio::DEFAULT),
        records: true,
    };
    let mut fields = HeaderMap::new();
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    fields.insert(TRACEPARENT, unsampled.parse().unwrap());
    fields.insert(TRACESTATE, "congo=t61rcWkgMzE,rojo=1".parse().unwrap());
    let count = allocations(|| {
        let followed = follow(&mut fields, rule, || panic!("nothing is made"));
        assert!(followed.is_some_and(|f| !f.recorded));
    });
    assert_eq!(count, 0);
    // The counter counts: a recorded one writes a header.
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    fields.insert(TRACEPARENT, sampled.parse().unwrap());
    let count = allocations(|| {
        follow(&mut fields, rule, || 7);
    });
    assert!(count > 0);
}
