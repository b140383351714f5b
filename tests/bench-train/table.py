"""What deploy/bench-train.sh measured, as a table: of each side its fastest way (passes, waiting) (by the
median), and the spread of its rounds."""
import json
import statistics
import sys

runs = {}
for line in sys.stdin:
    model, mode, who, form, text = line.rstrip("\n").split("|", 4)
    runs.setdefault((model, mode), {}).setdefault(who, {}).setdefault(form, []).append(json.loads(text))


def best(forms):
    """The form with the highest median speed: its name, its runs."""
    return max(forms.items(), key=lambda item: statistics.median(run["tokens_per_second"] for run in item[1]))


print("| model, mode | ours tok/s (rows × passes) | torch tok/s (rows × passes) | ratio | ours RSS MB | torch RSS MB |")
print("|---|---|---|---|---|---|")
for (model, mode), sides in runs.items():
    cells, speeds, memory = [], {}, {}
    for who in ("ours", "torch"):
        form, measured = best(sides[who])
        found = [run["tokens_per_second"] for run in measured]
        speeds[who] = statistics.median(found)
        memory[who] = statistics.median(run["rss_peak_mb"] for run in measured)
        cells.append(f"{speeds[who]:.0f} ({min(found):.0f}–{max(found):.0f}; {form})")
    print(
        f"| {model}, {mode} | {cells[0]} | {cells[1]} | **{speeds['ours'] / speeds['torch']:.2f}** "
        f"| {memory['ours']:.0f} | {memory['torch']:.0f} |"
    )
