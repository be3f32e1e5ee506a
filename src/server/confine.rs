//! What the process keeps to itself: its files, its memory, and the text of its panics.

use std::any::Any;
use std::panic::PanicHookInfo;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Makes every file that the process will write its user's alone. Unless `core_dumps`, a crash leaves no image of its
/// memory, nobody but root may look into it while it lives, and a panic tells where it was and not what it was about:
/// passwords and messages stand in all of them.
pub fn confine(core_dumps: bool) {
    umask(Mode::from_raw_mode(0o077));
    if core_dumps {
        return;
    }
    if let Err(error) = forbid_dumps() {
        tracing::warn!("a crash may leave a core dump: {error}");
    }
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let thread = std::thread::current();
        let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
        eprintln!("thread '{}' panicked{place}: {}", thread.name().unwrap_or("?"), harmless(info.payload()));
    }));
}

/// The limit is for dumps into files. A program that the kernel pipes them to need not look at it.
fn forbid_dumps() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

/// A panic's text if it stands so in the source. One that was put together may quote what a client sent.
fn harmless(payload: &dyn Any) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(the text is not shown; core_dumps = true shows it)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_dumps_can_not_be_looked_into() {
        use rustix::process::{dumpable_behavior, getrlimit};
        forbid_dumps().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    }

    #[test]
    fn a_panic_repeats_nothing_that_a_client_sent() {
        let caught = |panics: fn()| harmless(&*std::panic::catch_unwind(panics).unwrap_err());
        assert_eq!(caught(|| panic!("the queue has no owner")), "the queue has no owner");
        // As slicing a text does, which quotes it.
        let sliced = caught(|| drop(std::hint::black_box("hüter2")[..2].to_owned()));
        assert!(sliced.starts_with("(the text is not shown"), "{sliced}");
        let name = std::hint::black_box("geheim");
        assert!(name.len() == 6 && caught(|| panic!("{}", std::hint::black_box("geheim"))) == sliced);
    }
}
