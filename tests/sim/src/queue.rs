//! What happens next: events in the order of their time, and of their making where times are equal.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::time::At;

/// The agenda of a run.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    made: u64,
    now: At,
}

#[derive(Debug)]
struct Entry<E> {
    at: At,
    made: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.made) == (other.at, other.made)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.made).cmp(&(other.at, other.made))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            made: 0,
            now: At::default(),
        }
    }
}

impl<E> Queue<E> {
    /// The time of the event that was taken last.
    pub fn now(&self) -> At {
        self.now
    }

    /// Plans an event; one that is due already comes next.
    pub fn push(&mut self, at: At, event: E) {
        self.made += 1;
        self.heap.push(Reverse(Entry {
            at: at.max(self.now),
            made: self.made,
            event,
        }));
    }

    /// The next event, unless it comes after `end`.
    pub fn pop(&mut self, end: At) -> Option<E> {
        if self.heap.peek().is_none_or(|Reverse(next)| next.at > end) {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_making() {
        let mut queue = Queue::default();
        queue.push(At(5), "c");
        queue.push(At(1), "a");
        queue.push(At(5), "d");
        queue.push(At(2), "b");
        let mut seen = Vec::new();
        while let Some(event) = queue.pop(At(5)) {
            seen.push(event);
            if event == "b" {
                queue.push(At(0), "late");
            }
        }
        assert_eq!(seen, ["a", "b", "late", "c", "d"]);
        assert_eq!(queue.now(), At(5));
    }
}
