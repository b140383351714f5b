//! What sleeps is not polled, and no wake-up is lost.

use std::{
    collections::VecDeque,
    sync::atomic::AtomicUsize,
    task::{Poll, Wake, Waker},
};

use super::*;

/// Counts how often a task is woken.
#[derive(Debug, Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Something to poll: what it has to say, and who is woken when there is more.
#[derive(Debug, Default)]
struct Part {
    says: VecDeque<u8>,
    polls: usize,
    waker: Option<Waker>,
}

fn poll(part: &mut Part, cx: &mut Context<'_>) -> Poll<u8> {
    part.polls += 1;
    part.waker = Some(cx.waker().clone());
    part.says.pop_front().map_or(Poll::Pending, Poll::Ready)
}

#[test]
fn who_sleeps_is_not_polled_until_it_is_woken_or_told_something() {
    let task = Arc::new(Task::default());
    let waker = Waker::from(Arc::clone(&task));
    let cx = Context::from_waker(&waker);
    let mut part = Doze::new(Part::default());
    for _ in 0..9 {
        assert_eq!(part.poll_woken(&cx, poll), Poll::Pending);
    }
    assert_eq!(part.polls, 1, "once, to begin with");
    // Told something: all of it comes out, and then it sleeps again.
    part.says.extend([1, 2]);
    let mut said = std::iter::repeat_with(|| part.poll_woken(&cx, poll));
    let said: Vec<_> = said.by_ref().take(9).collect();
    assert_eq!(said[..3], [Poll::Ready(1), Poll::Ready(2), Poll::Pending]);
    assert_eq!(part.polls, 4);
    // Woken from inside, twice before anybody looks: the task is woken, and it is polled once.
    assert_eq!(task.0.load(Ordering::SeqCst), 0);
    let inner = part.inner.waker.clone().unwrap();
    inner.wake_by_ref();
    inner.wake();
    assert!(task.0.load(Ordering::SeqCst) > 0);
    for _ in 0..9 {
        assert_eq!(part.poll_woken(&cx, poll), Poll::Pending);
    }
    assert_eq!(part.polls, 5);
}

#[test]
fn who_moved_to_another_task_wakes_that_one() {
    let tasks = [(); 2].map(|()| Arc::new(Task::default()));
    let mut part = Doze::new(Part::default());
    for task in &tasks {
        let waker = Waker::from(Arc::clone(task));
        let polled = part.poll_woken(&Context::from_waker(&waker), poll);
        assert_eq!(polled, Poll::Pending);
    }
    part.inner.waker.take().unwrap().wake();
    assert_eq!(tasks.map(|task| task.0.load(Ordering::SeqCst)), [0, 1]);
}
