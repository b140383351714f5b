//! NVIDIA's cards through `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`. The parser is pure.

use super::{Gpu, ProbeError, run_tool, said};

const TOOL: &str = "nvidia-smi";
const MIB: u64 = 1 << 20;

pub(super) async fn probe() -> Result<Vec<Gpu>, ProbeError> {
    let arguments = [
        "--query-gpu=name,memory.total,mig.mode.current",
        "--format=csv,noheader,nounits",
    ];
    parse(&run_tool(TOOL, &arguments).await?)
}

/// One card a line: name, MiB, MIG mode. `[N/A]` and the like are unknown.
fn parse(text: &str) -> Result<Vec<Gpu>, ProbeError> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines == ["No devices were found"] {
        return Ok(Vec::new());
    }
    lines.iter().map(|line| parse_line(line, text)).collect()
}

fn parse_line(line: &str, text: &str) -> Result<Gpu, ProbeError> {
    // From the right: a name may hold a comma, the others do not.
    let mut fields = line.rsplitn(3, ',').map(str::trim);
    let (mig, memory, name) = (fields.next(), fields.next(), fields.next());
    let (Some(mig), Some(memory), Some(name)) = (mig, memory, name) else {
        // Error texts come on standard output too, sometimes with a good exit code.
        return Err(said(TOOL, text));
    };
    let vram_bytes = if memory.starts_with('[') {
        None
    } else {
        let mib: u64 = memory.parse().map_err(|_| ProbeError::Output(TOOL))?;
        Some(mib.checked_mul(MIB).ok_or(ProbeError::Output(TOOL))?)
    };
    Ok(Gpu {
        name: name.to_owned(),
        vram_bytes,
        mig: mig == "Enabled",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, mib: Option<u64>, mig: bool) -> Gpu {
        Gpu {
            name: name.into(),
            vram_bytes: mib.map(|mib| mib * MIB),
            mig,
        }
    }

    #[test]
    fn several_cards_are_read_in_order() {
        let text = "NVIDIA GeForce RTX 4090, 24564, [N/A]\nNVIDIA GeForce GTX 1080, 8192, [N/A]\n";
        let expected = [
            gpu("NVIDIA GeForce RTX 4090", Some(24_564), false),
            gpu("NVIDIA GeForce GTX 1080", Some(8_192), false),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn mig_and_unknown_memory_are_told() {
        let text = "NVIDIA A100-SXM4-80GB, 81920, Enabled\nNVIDIA GB10, [N/A], [N/A]\n\
                    NVIDIA H200, 143771, Disabled\n";
        let expected = [
            gpu("NVIDIA A100-SXM4-80GB", Some(81_920), true),
            gpu("NVIDIA GB10", None, false),
            gpu("NVIDIA H200", Some(143_771), false),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_driver_that_fails_is_repeated_and_never_a_card() {
        let text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. \
                    Make sure that the latest NVIDIA driver is installed and running.\n\n";
        let error = parse(text).unwrap_err();
        assert!(
            error.to_string().contains("couldn't communicate"),
            "{error}"
        );
        let text = "Failed to initialize NVML: Driver/library version mismatch\n";
        assert!(matches!(parse(text), Err(ProbeError::Tool { .. })));
        assert_eq!(parse("a, many, b\n"), Err(ProbeError::Output(TOOL)));
    }

    #[test]
    fn no_card_is_an_answer() {
        assert_eq!(parse("No devices were found\n").unwrap(), []);
        assert_eq!(parse("").unwrap(), []);
    }
}
