"""What was measured, file by file; its means with their intervals; and the table and the CSV of them."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..files import replacing

# key: (heading, decimals); higher is better in all
PAIRED = {
    "pesq_wb": ("WB-PESQ", 2),
    "pesq_nb": ("NB-PESQ", 2),
    "stoi": ("STOI", 3),
    "si_sdr": ("SI-SDR, dB", 2),
    "ssnr": ("SSNR, dB", 2),
    "csig": ("CSIG", 2),
    "cbak": ("CBAK", 2),
    "covl": ("COVL", 2),
}
DNSMOS = {"dnsmos_sig": ("DNSMOS SIG", 2), "dnsmos_bak": ("DNSMOS BAK", 2), "dnsmos_ovr": ("DNSMOS OVR", 2)}
MEASURES = PAIRED | DNSMOS


@dataclass(frozen=True)
class Mean:
    mean: float
    interval: float | None  # half the width of the 95 % confidence interval of the mean; None of one file
    count: int


@dataclass
class Report:
    """rows: {file: {measure: value}}, finite numbers only; what couldn't be had is in `failures`."""

    rows: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    def means(self, names: Iterable | None = None) -> dict:
        """{measure: Mean} over all files or those named; a file counts where its measure was had.

        The intervals are Student's, and take the files for independent draws.
        """
        from scipy.special import stdtrit

        rows = [self.rows[name] for name in (self.rows if names is None else names)]
        means = {}
        for key in MEASURES:
            if values := [row[key] for row in rows if key in row]:
                n = len(values)
                spread = float(np.std(values, ddof=1) * stdtrit(n - 1, 0.975) / np.sqrt(n)) if n > 1 else None
                means[key] = Mean(float(np.mean(values)), spread, n)
        return means

    def by_snr(self) -> dict:
        """{SNR in dB: [names]}, of the names that say snrN as DNS's and `mix_pairs`'s do."""
        groups = {}
        for name in self.rows:
            if found := re.findall(r"snr(-?\d+(?:\.\d+)?)", name):
                groups.setdefault(float(found[-1]), []).append(name)
        return dict(sorted(groups.items()))


def table(reports: dict, by_snr: bool = False) -> str:
    """Markdown of {system: Report}: mean and half width of its 95 % interval; (n) files if not all."""
    keys = [k for k in MEASURES if any(k in row for r in reports.values() for row in r.rows.values())]
    cells = [["SNR", "system", "files", *(MEASURES[key][0] for key in keys)]]
    groups = {name: report.by_snr() if by_snr else {} for name, report in reports.items()}
    for snr in [*sorted({snr for group in groups.values() for snr in group}), None]:
        for system, report in reports.items():
            names = list(report.rows) if snr is None else groups[system].get(snr, [])
            means = report.means(names)
            line = ["all" if snr is None else f"{snr:g} dB", system, str(len(names))]
            for key in keys:
                line.append(_cell(means.get(key), MEASURES[key][1], len(names)))
            cells.append(line)
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(mean: Mean | None, decimals: int, files: int) -> str:
    if mean is None:
        return "-"
    interval = "" if mean.interval is None else f" ± {mean.interval:.{decimals}f}"
    return f"{mean.mean:.{decimals}f}{interval}" + (f" ({mean.count})" if mean.count != files else "")


def write_csv(path, reports: dict) -> None:
    """Lines of each system: its files, what was left out and why, then means, ci95 and counts."""
    # What isn't text in a file's name is written with escapes.
    opening = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with replacing(path) as temporary, open(temporary, "w", **opening) as file:
        out = csv.DictWriter(file, ["system", "kind", "name", *MEASURES, "problem"])
        out.writeheader()
        for system, report in reports.items():
            for name, values in report.rows.items():
                out.writerow({"system": system, "kind": "file", "name": name} | values)
            for f in report.failures:
                line = {"system": system, "kind": "failure", "name": f.name}
                out.writerow(line | {"problem": f"{f.what}: {f.reason}"})
            for name, files in [*report.by_snr().items(), ("all", None)]:
                means = report.means(files)
                name = name if files is None else f"{name:g} dB"
                for kind, of in (("mean", "mean"), ("ci95", "interval"), ("count", "count")):
                    values = {key: getattr(mean, of) for key, mean in means.items()}
                    out.writerow({"system": system, "kind": kind, "name": name} | values)


def changes(before: Report, after: Report, key: str) -> dict:
    """{file: after - before} of one measure, where both have it."""
    both = [n for n in after.rows if key in after.rows[n] and key in before.rows.get(n, {})]
    return {name: after.rows[name][key] - before.rows[name][key] for name in both}
