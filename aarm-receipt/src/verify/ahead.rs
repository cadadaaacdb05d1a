//! Several threads read, one adds up: what is read of each item comes in order, and not more of it than there are threads is waiting.

use std::sync::mpsc::{self, Receiver};

/// Has `threads` read the items, and gives what they have read to `each`, in the order of the items, until that fails.
pub(super) fn in_order<T: Sync, R: Send, E>(
    items: &[T],
    threads: usize,
    read: impl Fn(&T) -> R + Sync,
    mut each: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let spawn = |nth: usize| {
            // Nobody reads on before what he has read was taken.
            let (to, from) = mpsc::sync_channel(0);
            let mine = items.iter().skip(nth).step_by(threads);
            let read = &read;
            scope.spawn(move || mine.map(read).try_for_each(|done| to.send(done)));
            from
        };
        let readers: Vec<Receiver<R>> = (0..threads.min(items.len())).map(spawn).collect();
        items.iter().zip(readers.iter().cycle()).try_for_each(|(item, reader)| match reader.recv() {
            Ok(done) => each(item, done),
            // It panicked: so does the scope.
            Err(_) => Ok(()),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_come_in_order_and_no_more_than_is_said_wait() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [1, 3, 8, 200] {
            let (read, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut order = Vec::new();
            let result: Result<(), ()> = in_order(
                &items,
                threads,
                |n| {
                    let ahead = read.fetch_add(1, Ordering::SeqCst) - taken.load(Ordering::SeqCst);
                    assert!(ahead <= threads, "{ahead} of {threads}");
                    n * 2
                },
                |item, done| {
                    taken.fetch_add(1, Ordering::SeqCst);
                    order.push((*item, done));
                    Ok(())
                },
            );
            assert_eq!(result, Ok(()));
            assert_eq!(order, items.iter().map(|n| (*n, n * 2)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nothing_is_read_on_after_a_failure() {
        let items: Vec<usize> = (0..1000).collect();
        let read = AtomicUsize::new(0);
        let result = in_order(
            &items,
            4,
            |n| {
                read.fetch_add(1, Ordering::SeqCst);
                *n
            },
            |_, n| if n == 9 { Err(n) } else { Ok(()) },
        );
        assert_eq!(result, Err(9));
        assert!(read.load(Ordering::SeqCst) < 20);
        assert_eq!(in_order(&[0usize; 0], 4, |n| *n, |_, _| Err(())), Ok(()));
    }
}
