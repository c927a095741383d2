//! A folder's lock, which names its holder.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::Instant;

use crate::model::limits;

/// What came of locking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The lock is held until the file is closed.
    Held,
    /// Another has it: the process with that id, if the file says so.
    Taken(Option<u32>),
}

/// Locks a file against others and writes this process's id into it (not for a shared lock).
///
/// A lock goes with an open file, and a child that this process starts has a copy of it from its `fork` to its `exec`
/// (flock(2)). So a lock that this process itself has given up may be held for a moment longer: that is waited for, up
/// to [`limits::LOCK_OWN_WAIT_MAX`].
///
/// # Errors
/// The file cannot be locked, read or written.
pub fn lock_file(file: &mut File, exclusive: bool) -> io::Result<Locked> {
    let begun = Instant::now();
    loop {
        let locked = if exclusive { file.try_lock() } else { file.try_lock_shared() };
        match locked {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {}
        }
        let mut holder = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.take(32).read_to_string(&mut holder)?;
        let holder = holder.trim().parse().ok();
        if holder != Some(std::process::id()) || begun.elapsed() > limits::LOCK_OWN_WAIT_MAX {
            return Ok(Locked::Taken(holder));
        }
        std::thread::sleep(limits::LOCK_OWN_WAIT);
    }
    if exclusive {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())?;
    }
    Ok(Locked::Held)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_lock_that_this_process_is_about_to_give_up_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.path().join("lock"))
                .expect("a file")
        };
        let mut held = open();
        assert_eq!(lock_file(&mut held, true).expect("locked"), Locked::Held);
        let copy = held.try_clone().expect("as a child has it");
        drop(held);
        let other = std::thread::spawn(move || {
            std::thread::sleep(limits::LOCK_OWN_WAIT * 4);
            drop(copy);
        });
        let mut again = open();
        assert_eq!(lock_file(&mut again, true).expect("locked"), Locked::Held);
        other.join().expect("it ends");
        assert_eq!(lock_file(&mut open(), true).expect("asked"), Locked::Taken(Some(std::process::id())));
    }
}
