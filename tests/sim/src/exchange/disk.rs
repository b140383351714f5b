//! The disk of a simulated fetch: not the bytes but whose lies they are. A taint of 0 is the right bytes, any
//! other the wrong bytes of one liar.

use std::ops::Range;

use owm_proto::Sha256;

/// One file: what was written last, everywhere.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Sorted, apart.
    runs: Vec<(Range<u64>, u32)>,
}

impl Disk {
    /// Writes bytes over whatever is there.
    pub(super) fn write(&mut self, range: Range<u64>, taint: u32) {
        let mut runs = Vec::with_capacity(self.runs.len() + 2);
        for (old, old_taint) in self.runs.drain(..) {
            if old.start < range.start {
                runs.push((old.start..old.end.min(range.start), old_taint));
            }
            if old.end > range.end {
                runs.push((old.start.max(range.end)..old.end, old_taint));
            }
        }
        runs.push((range, taint));
        runs.sort_unstable_by_key(|(run, _)| run.start);
        for (run, taint) in runs {
            match self.runs.last_mut() {
                Some((last, last_taint)) if last.end == run.start && *last_taint == taint => {
                    last.end = run.end;
                }
                _ => self.runs.push((run, taint)),
            }
        }
    }

    /// What lies in `range`.
    pub(super) fn read(&self, range: &Range<u64>) -> Vec<(Range<u64>, u32)> {
        let from = self.runs.partition_point(|(run, _)| run.end <= range.start);
        let inside = self.runs[from..]
            .iter()
            .take_while(|(run, _)| run.start < range.end);
        inside
            .map(|(run, taint)| (run.start.max(range.start)..run.end.min(range.end), *taint))
            .collect()
    }

    /// Whether `range` holds the right bytes and nothing else.
    pub(super) fn is_right(&self, range: &Range<u64>) -> bool {
        self.read(range) == [(range.clone(), 0)]
    }

    /// Differs where the bytes differ.
    pub(super) fn digest(&self, range: &Range<u64>) -> Sha256 {
        let mut text = Vec::new();
        for (run, taint) in self.read(range) {
            text.extend_from_slice(&run.start.to_be_bytes());
            text.extend_from_slice(&run.end.to_be_bytes());
            text.extend_from_slice(&taint.to_be_bytes());
        }
        Sha256::of(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_counts() {
        let mut disk = Disk::default();
        disk.write(0..10, 0);
        disk.write(10..20, 0);
        assert!(disk.is_right(&(3..20)));
        assert!(!disk.is_right(&(3..21)), "nothing was written there");
        let before = disk.digest(&(5..15));
        disk.write(8..9, 4);
        assert_eq!(disk.read(&(0..20)), [(0..8, 0), (8..9, 4), (9..20, 0)]);
        assert_ne!(disk.digest(&(5..15)), before);
        disk.write(0..20, 0);
        assert_eq!(disk.digest(&(5..15)), before);
    }
}
