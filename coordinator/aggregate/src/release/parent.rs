//! The parent's file, as far as the residue needs it: what each element moves by when it is rounded to the file's type.

use owm_update::{ApplyError, BLOCK, Block, Layout, Subject, UpdateError, apply::moved_by};

use crate::error::AggregateError;

/// The parent's bytes. Several threads read at once.
pub trait Parent: Sync {
    /// Fills `into` with the bytes from `offset` on.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()>;
}

/// A parent in memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryParent<'a>(pub &'a [u8]);

impl Parent for MemoryParent<'_> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        let bytes = self.0.get(offset as usize..).unwrap_or_default();
        let bytes = bytes
            .get(..into.len())
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(unix)]
impl Parent for std::fs::File {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, into, offset)
    }
}

/// What a delta is made on.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The parent's tensors.
    pub layout: &'a Layout,
    /// The parent's bytes; not read in LoRA mode.
    pub parent: &'a dyn Parent,
}

impl std::fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base")
            .field("layout", &self.layout.id())
            .finish_non_exhaustive()
    }
}

impl Base<'_> {
    /// Whether updates of so many elements are of this parent.
    pub(super) fn check(&self, subject: &Subject, elements: u64) -> Result<(), AggregateError> {
        if subject.layout != self.layout.id() {
            return Err(ApplyError::OtherLayout {
                delta: subject.layout,
                parent: self.layout.id(),
            }
            .into());
        }
        let expected = self
            .layout
            .elements(&subject.mode)
            .map_err(ApplyError::from)?;
        if expected != elements {
            return Err(UpdateError::Elements {
                update: elements,
                other: expected,
            }
            .into());
        }
        Ok(())
    }

    /// Tells `each` by how much every element with a value moves in the file: child − parent.
    pub(super) fn moved(
        &self,
        block: usize,
        decoded: &Block,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(usize, f64),
    ) -> Result<(), AggregateError> {
        let first = block as u64 * BLOCK as u64;
        let end = first + decoded.elements() as u64;
        let tensors = self.layout.tensors();
        let from = tensors.partition_point(|tensor| tensor.elements.end <= first);
        let (places, values) = (decoded.places(), decoded.values());
        for tensor in &tensors[from..] {
            let Some(dtype) = tensor.dtype else { continue };
            let range = tensor.elements.start.max(first)..tensor.elements.end.min(end);
            if tensor.elements.start >= end {
                break;
            }
            let size = dtype.bytes();
            buffer.resize((range.end - range.start) as usize * size, 0);
            let offset = tensor.bytes.start + (range.start - tensor.elements.start) * size as u64;
            self.parent
                .read_at(offset, buffer)
                .map_err(AggregateError::Parent)?;
            let start = (range.start - first) as usize;
            let stop = (range.end - first) as usize;
            let low = places.partition_point(|place| usize::from(*place) < start);
            let high = places.partition_point(|place| usize::from(*place) < stop);
            for (place, value) in places[low..high].iter().zip(&values[low..high]) {
                let place = usize::from(*place);
                let bytes = &buffer[(place - start) * size..][..size];
                let moved = moved_by(dtype, bytes, *value)
                    .ok_or(AggregateError::NotFinite(first + place as u64))?;
                each(place, moved);
            }
        }
        Ok(())
    }
}
