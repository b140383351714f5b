//! AMD's cards through `rocm-smi --showmeminfo vram --showproductname --json`; if that tool is missing,
//! `rocminfo` at least names them. The parsers are pure.

use serde_json::Value;

use super::{Gpu, ProbeError, run_tool};

const SMI: &str = "rocm-smi";
const INFO: &str = "rocminfo";

pub(super) async fn probe() -> Result<Vec<Gpu>, ProbeError> {
    match run_tool(
        SMI,
        &["--showmeminfo", "vram", "--showproductname", "--json"],
    )
    .await
    {
        Ok(text) => parse_smi(&text),
        Err(ProbeError::NoTool(_)) => match run_tool(INFO, &[]).await {
            Ok(text) => Ok(parse_info(&text)),
            // The better tool is the one to install.
            Err(ProbeError::NoTool(_)) => Err(ProbeError::NoTool(SMI)),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// `{"card0": {"VRAM Total Memory (B)": "…", "Card series": "…"}, …}`, after warnings perhaps.
fn parse_smi(text: &str) -> Result<Vec<Gpu>, ProbeError> {
    // rocm-smi prints warnings before the JSON.
    let Some(start) = text.find('{') else {
        return if text.trim().is_empty() {
            Ok(Vec::new())
        } else {
            Err(ProbeError::Output(SMI))
        };
    };
    let json = text[start..].lines().next().unwrap_or_default();
    let parsed = serde_json::from_str(json).or_else(|_| serde_json::from_str(&text[start..]));
    let Ok(Value::Object(cards)) = parsed else {
        return Err(ProbeError::Output(SMI));
    };
    let is_card = |name: &str| {
        name.strip_prefix("card")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    Ok(cards
        .iter()
        .filter(|(name, _)| is_card(name))
        .map(|(name, card)| read_card(name, card))
        .collect())
}

fn read_card(name: &str, card: &Value) -> Gpu {
    let text = |key: &str| {
        // Capitals differ between versions.
        let fields = card.as_object()?;
        let found = fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(key))?
            .1;
        found
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty() && *text != "N/A")
    };
    let series = text("Card series")
        .or_else(|| text("Card model"))
        .unwrap_or(name);
    let vram_bytes = text("VRAM Total Memory (B)").and_then(|bytes| bytes.parse().ok());
    Gpu {
        name: format!("AMD {series}"),
        vram_bytes,
        mig: false,
    }
}

/// Agents of type GPU, by marketing name; this tool does not tell video memory reliably.
fn parse_info(text: &str) -> Vec<Gpu> {
    let mut gpus = Vec::new();
    let mut marketing = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match (key.trim(), value.trim()) {
            ("Marketing Name", name) => marketing = Some(name).filter(|name| !name.is_empty()),
            ("Device Type", "GPU") => gpus.push(Gpu {
                name: format!("AMD {}", marketing.unwrap_or("GPU")),
                vram_bytes: None,
                mig: false,
            }),
            _ => {}
        }
    }
    gpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_behind_warnings() {
        let text = "WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status\n\n\
            {\"card0\": {\"VRAM Total Memory (B)\": \"25753026560\", \"VRAM Total Used Memory (B)\": \"26959872\", \
            \"Card Series\": \"Radeon RX 7900 XTX\", \"Card Model\": \"0x744c\"}, \
            \"card1\": {\"VRAM Total Memory (B)\": \"N/A\", \"Card series\": \"N/A\"}, \
            \"system\": {\"Driver version\": \"6.8.5\"}}\n";
        let expected = [
            Gpu {
                name: "AMD Radeon RX 7900 XTX".into(),
                vram_bytes: Some(25_753_026_560),
                mig: false,
            },
            Gpu {
                name: "AMD card1".into(),
                vram_bytes: None,
                mig: false,
            },
        ];
        assert_eq!(parse_smi(text).unwrap(), expected);
    }

    #[test]
    fn no_card_is_an_answer_and_other_text_is_not() {
        assert_eq!(parse_smi("").unwrap(), []);
        assert_eq!(parse_smi("{}").unwrap(), []);
        assert_eq!(
            parse_smi("ERROR: 8 GPUs missing"),
            Err(ProbeError::Output(SMI))
        );
        assert_eq!(parse_smi("{\"card0\": "), Err(ProbeError::Output(SMI)));
    }

    #[test]
    fn rocminfo_names_gpus_and_not_processors() {
        let text = "\
*******
Agent 1
*******
  Name:                    AMD Ryzen 9 7950X 16-Core Processor
  Marketing Name:          AMD Ryzen 9 7950X 16-Core Processor
  Device Type:             CPU
*******
Agent 2
*******
  Name:                    gfx1100
  Marketing Name:          Radeon RX 7900 XTX
  Vendor Name:             AMD
  Device Type:             GPU
";
        let expected = [Gpu {
            name: "AMD Radeon RX 7900 XTX".into(),
            vram_bytes: None,
            mig: false,
        }];
        assert_eq!(parse_info(text), expected);
    }
}
