//! Feeds arbitrary bytes to whatever reads federated updates: headers, blocks of every width and coding, residues,
//! and a delta applied to a small file with a header of its own.
//!
//! Run with `deploy/fuzz.sh 60 update`. What must stay true: no panic, memory bounded by the bytes at hand, what is
//! accepted is written the same, values are finite, and a delta leaves the file as long as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use owm_proto::{Sha256, genesis::NetworkId};
use owm_update::{
    BLOCK, Block, Codec, Header, IndexCoding, Keep, Layout, LoraEpoch, Mode, Origin, Residue,
    Subject, Targets, Update, ValueWidth, apply::Merge,
};

/// A small file whose header the fuzzer may choose, too.
fn parent(json: &[u8]) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json);
    file
}

fn read(bytes: &[u8]) {
    let Ok(update) = Update::parse(bytes) else {
        return;
    };
    let header = update.header();
    // 2^38 elements need a table of 16 MiB: here it is short.
    assert!(header.elements <= (bytes.len() as u64 / 4 + 1) * BLOCK as u64);
    let (again, table) = Header::parse(bytes).expect("it has just been parsed");
    let lengths: Vec<u32> = (0..table.len())
        .map(|i| (table.range(i).end - table.range(i).start) as u32)
        .collect();
    let written = again.write(&lengths).expect("it has been read");
    assert_eq!(written, bytes[..written.len()]);
    let mut block = Block::default();
    for i in 0..update.blocks().min(16) {
        if update.read(i, &mut block).is_ok() {
            let range = table.range(i);
            let bytes = &bytes[range.start as usize..range.end as usize];
            assert_eq!(block.to_bytes(header), bytes);
            assert!(block.square().is_finite());
            for (place, value) in block.iter() {
                assert!(place < block.elements() && value.is_normal());
            }
        }
    }
    let _ = update.summary();
}

/// The update's own header decides the mode, so that B and A are reached.
fn apply(bytes: &[u8], json: &[u8]) {
    let mut file = parent(json);
    let Ok(layout) = Layout::parse(&file) else {
        return;
    };
    let Ok((mut header, table)) = Header::parse(bytes) else {
        return;
    };
    if layout.data().end > 1 << 20 {
        return;
    }
    file.resize(layout.data().end as usize, 0x3c);
    header.subject.layout = layout.id();
    header.subject.base = Sha256::of(&file);
    header.subject.origin = Origin::Aggregate { updates: 1 };
    let lengths: Vec<u32> = (0..table.len())
        .map(|i| (table.range(i).end - table.range(i).start) as u32)
        .collect();
    let blocks = &bytes[table.range(0).start as usize..];
    let Ok(delta) = owm_update::assemble(&header, &lengths, &[blocks]) else {
        return;
    };
    let Ok(update) = Update::parse(&delta) else {
        return;
    };
    if let Mode::Lora(epoch) = &header.subject.mode {
        let _ = layout.lora_targets(epoch);
    }
    if let Ok(merge) = Merge::new(&layout, file.len() as u64, &update) {
        let mut streamed = file.clone();
        let whole = merge.in_place(&mut file);
        let mut stream = merge.stream();
        let mut at = 0;
        while let Some(bytes) = stream.next_bytes() {
            if stream.apply(&mut streamed[at..at + bytes]).is_err() {
                assert!(whole.is_err());
                return;
            }
            at += bytes;
        }
        assert_eq!(at, streamed.len());
        assert_eq!(stream.finish(), whole);
        assert_eq!(streamed, file);
    }
}

/// A good header of the fuzzer's codec before its block, so that blocks are reached at once.
fn one_block(choice: [u8; 8], block: &[u8]) {
    let [width, coding, a, b, c, low, high, mode] = choice;
    let (Some(values), Some(keep)) = (
        ValueWidth::from_bits([2, 8, 32][usize::from(width % 3)]),
        Keep::from_ppm(u32::from_le_bytes([a, b, c, 0]) % 1_000_000 + 1),
    ) else {
        return;
    };
    let indices = [IndexCoding::Rice, IndexCoding::Packed][usize::from(coding % 2)];
    let lora = LoraEpoch {
        epoch: 1,
        rank: 1,
        seed: [mode; 32],
        targets: Targets::new(9, [u32::from(mode % 9)]).expect("one of nine"),
    };
    let header = Header {
        subject: Subject {
            network: NetworkId(Sha256([1; 32])),
            round: 1,
            sub_model: "owm-code".parse().expect("a sub-model"),
            base: Sha256([2; 32]),
            layout: Sha256([3; 32]),
            mode: if mode < 128 {
                Mode::Full
            } else {
                Mode::Lora(lora)
            },
            origin: Origin::Aggregate { updates: 2 },
        },
        codec: Codec {
            keep,
            values,
            indices,
        },
        elements: u64::from(u16::from_le_bytes([low, high])) + 1,
        residue_before: None,
        residue_after: None,
    };
    if let Ok(bytes) = owm_update::assemble(&header, &[block.len() as u32], &[block]) {
        read(&bytes);
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if let Some((choice, block)) = bytes.split_first_chunk::<8>() {
        one_block(*choice, block);
    }
    if let Ok(residue) = Residue::parse(bytes) {
        assert_eq!(residue.to_bytes(), bytes);
    }
    let _ = Layout::parse(bytes);
    if let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (json, update) = rest.split_at(length);
        apply(update, json);
    }
});
