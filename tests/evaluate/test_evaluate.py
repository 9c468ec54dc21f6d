"""The measures by hand-computed cases and laws; pairing, mixing, failures and the command."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.cli import evaluate as cli_evaluate
from modelscope_zipenhancer.errors import (
    AudioError,
    AudioNotFoundError,
    CheckpointError,
    ModelNotFoundError,
    ZipEnhancerError,
)
from modelscope_zipenhancer.evaluate import dnsmos as dnsmos_module
from modelscope_zipenhancer.evaluate import measures, pairs
from modelscope_zipenhancer.evaluate import report as reports
from modelscope_zipenhancer.evaluate import run as evaluate

pytest.importorskip("pesq", reason="needs the [eval] extra")
pytest.importorskip("pystoi", reason="needs the [eval] extra")

SHARED = Path(__file__).parents[3] / "shared"
DNSMOS_FILE = SHARED / "metrics" / "dnsmos" / "sig_bak_ovr.onnx"
TIME = np.arange(40000) / 16000  # 2.5 s


def speech_like(seed: int = 0) -> np.ndarray:
    """Voiced bursts of a gliding pitch with formant-like partials, and pauses with a little noise."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.3 * TIME + seed)) / 16000
    voice = sum(np.cos(n * phase) / (1 + abs(n - 5) + 0.3 * abs(n - 18)) for n in range(1, 40))
    bursts = np.clip(np.sin(2 * np.pi * 2.5 * TIME + seed), 0, 1)
    return 0.1 * voice * bursts + 1e-3 * rng.standard_normal(len(TIME))


CLEAN = speech_like()
NOISE = np.random.default_rng(1).standard_normal(len(CLEAN))
NOISY = CLEAN + 0.02 * NOISE


def write(path, x, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, rate)


@pytest.fixture
def folders(tmp_path):
    """clean/ and noisy/ with two pairs: a, and b in a subfolder."""
    for i, name in enumerate(("a.wav", "sub/b.wav")):
        write(tmp_path / "clean" / name, speech_like(i))
        write(tmp_path / "noisy" / name, speech_like(i) + 0.02 * NOISE)
    return tmp_path


def parsed(*options):
    parser = argparse.ArgumentParser()
    cli_evaluate.add_arguments(parser)
    return parser.parse_args([str(option) for option in (*options, "--jobs", 1)])


# ---- measures


def test_si_sdr_of_a_tone_and_an_orthogonal_tone_is_the_ratio_of_their_levels():
    tone, other = np.sin(2 * np.pi * 100 * TIME), np.cos(2 * np.pi * 100 * TIME)
    assert measures.si_sdr(tone, 3 * tone + 0.03 * other) == pytest.approx(40, abs=1e-9)
    assert measures.si_sdr(tone, tone + other) == pytest.approx(0, abs=1e-9)


def test_si_sdr_ignores_gain_sign_and_offset():
    value = measures.si_sdr(CLEAN, NOISY)
    for changed in (7 * NOISY, -0.1 * NOISY, NOISY + 0.5):
        assert measures.si_sdr(CLEAN, changed) == pytest.approx(value, abs=1e-6)


def test_si_sdr_of_equal_signals_is_large_and_finite_and_of_silence_refused():
    assert 140 < measures.si_sdr(CLEAN, CLEAN) < 157
    for pair in ((CLEAN, 0 * CLEAN), (0 * CLEAN, CLEAN), (CLEAN, 0 * CLEAN + 0.1)):
        with pytest.raises(measures.MetricError, match="silence"):
            measures.si_sdr(*pair)


@pytest.mark.parametrize("error, expected", [(0.1, 20.0), (0.5, 6.0206), (1e-4, 35.0), (30.0, -10.0)])
def test_segmental_snr_of_a_proportional_error_is_its_ratio_within_the_limits(error, expected):
    assert measures.segmental_snr(NOISE, (1 + error) * NOISE) == pytest.approx(expected, abs=1e-3)


def test_segmental_snr_is_the_mean_of_the_frames_decibels():
    half = np.where(np.arange(len(NOISE)) < len(NOISE) // 2, 1.1, 2.0)  # 20 dB, then 0 dB
    assert measures.segmental_snr(NOISE, half * NOISE) == pytest.approx(10, abs=0.1)


def test_log_likelihood_ratio_is_that_of_predictors_solved_frame_by_frame():
    def lags(frame):
        return np.array([frame[: 480 - k] @ frame[k:] for k in range(17)])

    def toeplitz(r):
        return r[np.abs(np.subtract.outer(np.arange(len(r)), np.arange(len(r))))]

    def error(r, of):
        a = np.append(1, -np.linalg.solve(toeplitz(r[:16]), r[1:]))
        return a @ toeplitz(of) @ a

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, 481) / 481)
    ratios = []
    for start in range(0, len(CLEAN) - 480 - 119, 120):
        c, n = (lags(x[start : start + 480] * window) for x in (CLEAN, NOISY))
        ratios.append(np.log(error(n, c) / error(c, c)))
    lowest = np.sort(ratios)[: round(0.95 * len(ratios))]
    assert measures.log_likelihood_ratio(CLEAN, NOISY) == pytest.approx(np.mean(lowest), rel=1e-6)


def test_the_distances_are_zero_between_equal_signals_and_ignore_gain():
    for measure in (measures.log_likelihood_ratio, measures.weighted_spectral_slope):
        assert measure(CLEAN, CLEAN) == 0
        assert measure(CLEAN, 0.5 * CLEAN) == pytest.approx(0, abs=1e-9)
        assert 0 < measure(CLEAN, CLEAN + 0.002 * NOISE) < measure(CLEAN, NOISY)


def test_spectral_slopes_are_weighted_by_the_nearness_of_peaks():
    # Levels 0, 10, 4 dB against flat ones: slopes 10, -6 against 0, 0. The weights of the first are
    # 20 / (20 + 10) and 1, of the flat ones 1 and 1: their means 5/6 and 1.
    by_hand = (5 / 6 * 10**2 + 1 * 6**2) / (5 / 6 + 1)
    peaked, flat = np.array([[0.0, 10, 4]]), np.zeros((1, 3))
    assert measures._slope_distance(peaked, flat) == pytest.approx(by_hand)
    assert measures._slope_distance(flat, peaked) == pytest.approx(by_hand)


def test_the_nearest_peak_is_found_uphill():
    bands = np.array([[0.0, 1, 3, 2, 1, 4, 5]])
    # rising: one band short of the peak, as in the published code; falling: the peak itself
    assert measures._nearest_peak(bands, np.diff(bands)).tolist() == [[1, 1, 3, 3, 4, 4]]


def test_critical_bands_are_centred_fall_off_and_narrow_ones_have_unit_gain():
    bands = measures._critical_bands()
    assert bands.shape == (25, 512)
    assert np.argmax(bands, axis=1).tolist()[:3] == [3, 7, 12]  # 50, 120, 190 Hz of 15.625 Hz bins
    assert bands.max(axis=1)[:7] == pytest.approx(1)
    assert bands.max(axis=1)[-1] == pytest.approx(70 / 346.136)


def test_composite_follows_the_regressions():
    # Equal signals: LLR = WSS = 0 and a segmental SNR of 35 dB, so that only the constants are left.
    csig, cbak, covl = measures.composite(NOISE, NOISE, pesq_wb=1.0)
    assert csig == pytest.approx(3.093 + 0.603)
    assert cbak == pytest.approx(1.634 + 0.478 + 0.063 * 35)
    assert covl == pytest.approx(1.594 + 0.805)
    assert measures.composite(NOISE, NOISE, pesq_wb=4.64) == pytest.approx((5, 5, 5))
    llr, wss = (m(CLEAN, NOISY) for m in (measures.log_likelihood_ratio, measures.weighted_spectral_slope))
    expected = np.clip(3.093 - 1.029 * llr + 0.603 * 3 - 0.009 * wss, 1, 5)
    assert measures.composite(CLEAN, NOISY, pesq_wb=3.0)[0] == pytest.approx(expected)


def test_every_measure_falls_as_the_noise_grows():
    def all_of(x):
        named = (measures.stoi, measures.si_sdr, measures.segmental_snr)
        both = [measures.pesq(CLEAN, x), measures.pesq(CLEAN, x, "nb")]
        return np.array(both + [m(CLEAN, x) for m in named] + list(measures.composite(CLEAN, x)))

    little, much = all_of(CLEAN + 0.0005 * NOISE), all_of(CLEAN + 0.05 * NOISE)
    assert np.all(little > much)


def test_measures_of_equal_signals_are_the_best_there_are():
    assert measures.pesq(CLEAN, CLEAN) == pytest.approx(4.644, abs=1e-3)
    assert measures.stoi(CLEAN, CLEAN) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("measure", [measures.pesq, measures.stoi, measures.composite, measures.si_sdr])
def test_what_can_not_be_measured_is_refused_never_nan(measure):
    broken = CLEAN.copy()
    broken[100] = np.nan
    for pair in ((CLEAN, CLEAN[1:]), (CLEAN, broken), (CLEAN[:500], CLEAN[:500]), (CLEAN, 0 * CLEAN)):
        try:
            assert np.isfinite(measure(*pair)).all()
        except measures.MetricError as error:
            assert str(error)
    with pytest.raises(measures.MetricError, match="NaN"):
        measure(CLEAN, broken)


def test_pesq_and_stoi_of_too_little_speech_are_refused():
    for measure in (measures.pesq, measures.stoi):
        with pytest.raises(measures.MetricError, match="can't|needs"):
            measure(CLEAN[:3000], NOISY[:3000])


@pytest.mark.parametrize(
    "samples, doubled, windows",
    [(144160, 1, 1), (16000 * 9, 2, 9), (16000 * 10 + 100, 1, 1), (16000 * 12, 1, 3), (50000, 4, 3)],
)
def test_dnsmos_has_a_window_a_second_and_averages_the_mapped_scores(monkeypatch, samples, doubled, windows):
    seen = []

    class Session:
        def run(self, _, feeds):
            seen.append(feeds["input_1"])
            return [np.array([[3.0, 2.0, len(seen)]], np.float32)]

    monkeypatch.setattr(dnsmos_module, "dnsmos_session", lambda path: Session())
    x = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    sig, bak, ovr = dnsmos_module.dnsmos(x, "some.onnx")
    assert len(seen) == windows and all(w.shape == (1, 144160) for w in seen)
    whole = np.tile(x, doubled)
    assert all(np.array_equal(w[0], whole[i * 16000 : i * 16000 + 144160]) for i, w in enumerate(seen))
    assert sig == pytest.approx(-0.08397278 * 9 + 1.22083953 * 3 + 0.0052439)
    assert bak == pytest.approx(-0.13166888 * 4 + 1.60915514 * 2 - 0.39604546)
    n = np.arange(1, windows + 1)
    assert ovr == pytest.approx(np.mean(-0.06766283 * n**2 + 1.11546468 * n + 0.04602535))


@pytest.mark.skipif(
    not (DNSMOS_FILE.exists() and (SHARED / "audio" / "samples").exists()),
    reason="DNSMOS's sig_bak_ovr.onnx and the model card's recordings are not at hand",
)
def test_dnsmos_of_the_model_cards_samples_is_the_known_one():
    pytest.importorskip("onnxruntime")
    found = []
    for name in ("speech_with_noise.wav", "speech_with_noise1.wav"):
        x, rate = read(SHARED / "audio" / "samples" / name)
        found.append(round(dnsmos_module.dnsmos(x[:, 0], DNSMOS_FILE)[2], 2))
    assert sorted(found) == [1.37, 1.65]


def test_a_dnsmos_file_that_is_missing_or_another_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelNotFoundError, match="no DNSMOS"):
        dnsmos_module.dnsmos(CLEAN, tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(CheckpointError, match=r"text\.onnx"):
        dnsmos_module.dnsmos(CLEAN, tmp_path / "text.onnx")


# ---- pairs


def test_pairs_have_the_same_path_whatever_the_suffix(tmp_path):
    write(tmp_path / "clean" / "x" / "one.flac", CLEAN)
    write(tmp_path / "noisy" / "x" / "one.WAV", NOISY)
    found, failures = pairs.find_pairs(tmp_path / "clean", tmp_path / "noisy")
    assert [p.name for p in found] == ["x/one"] and not failures
    assert found[0].clean.endswith("one.flac") and found[0].test.endswith("one.WAV")


def test_whatever_is_enhanced_in_a_folder_is_evaluated_too(tmp_path):
    for name in ("clean/a.wav", "noisy/a.m4a", "clean/.hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, failures = pairs.find_pairs(tmp_path / "clean", tmp_path / "noisy")
    assert [os.path.basename(p.test) for p in found] == ["a.m4a"] and not failures


def test_pairs_of_the_dns_challenge_have_the_same_fileid(tmp_path):
    for n in (1, 12):
        write(tmp_path / "clean" / f"clean_fileid_{n}.wav", CLEAN)
        write(tmp_path / "noisy" / f"book_{7 * n}_snr15_tl-21_fileid_{n}.wav", NOISY)
    found, failures = pairs.find_pairs(tmp_path / "clean", tmp_path / "noisy")
    assert not failures
    ids = [[path.rsplit("fileid_")[-1] for path in (p.test, p.clean)] for p in found]
    assert ids == [["1.wav", "1.wav"], ["12.wav", "12.wav"]]
    assert reports.Report(rows={p.name: {} for p in found}).by_snr() == {15.0: [p.name for p in found]}


def test_an_unpaired_recording_is_refused_by_name_or_left_out_and_counted(folders):
    (folders / "clean" / "a.wav").unlink()
    write(folders / "clean" / "more.wav", CLEAN)
    with pytest.raises(AudioError, match=r"a\.wav"):
        pairs.find_pairs(folders / "clean", folders / "noisy")
    found, failures = pairs.find_pairs(folders / "clean", folders / "noisy", on_error="skip")
    assert [p.name for p in found] == ["sub/b"]
    assert [os.path.basename(f.name) for f in failures] == ["a.wav", "more.wav"]


def test_a_folder_without_audio_is_refused(folders):
    (folders / "empty").mkdir()
    for empty in ("empty", "nowhere"):
        with pytest.raises(AudioNotFoundError, match=empty):
            pairs.find_pairs(folders / "clean", folders / empty)
        with pytest.raises(AudioNotFoundError, match=empty):
            pairs.find_pairs(folders / empty, folders / "noisy")


def test_two_recordings_of_one_name_are_refused(folders):
    write(folders / "noisy" / "a.flac", NOISY)
    with pytest.raises(AudioError, match="both 'a'"):
        pairs.find_pairs(folders / "clean", folders / "noisy")


# ---- mixtures


@pytest.fixture
def sources(tmp_path):
    write(tmp_path / "speech" / "anna.wav", CLEAN)
    write(tmp_path / "speech" / "ben.wav", speech_like(3))
    write(tmp_path / "noises" / "fan.wav", 0.1 * NOISE[:9000])  # shorter: looped
    write(tmp_path / "noises" / "rain.wav", 0.1 * np.random.default_rng(5).standard_normal(24000), 8000)
    return tmp_path


def test_mixtures_have_the_snr_asked_for_and_say_so(sources):
    found, failures = pairs.mix_pairs(
        sources / "speech", sources / "noises", [-5, 0, 12.5], 3, sources / "out", seed=1
    )
    assert len(found) == 9 and not failures
    for pair in found:
        clean, noisy = (soundfile.read(path)[0] for path in (pair.clean, pair.test))
        snr = 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2))
        assert snr == pytest.approx(float(pair.name.rsplit("snr")[-1]), abs=0.02)
        assert pair.name.split("_")[1] in ("anna", "ben") and pair.name.split("_")[2] in ("fan", "rain")
    assert len({pair.name.split("_")[2] for pair in found}) == 2


def test_mixtures_depend_on_the_seed_and_on_nothing_else(sources):
    def made(out, seed, snrs=(0, 5), count=2):
        found, _ = pairs.mix_pairs(sources / "speech", sources / "noises", snrs, count, sources / out, seed)
        return {p.name: Path(p.test).read_bytes() for p in found}

    first = made("one", 4)
    assert made("two", 4) == first
    assert made("three", 4, snrs=[5]).items() <= first.items()  # nor on what else is made
    assert first.items() <= made("four", 4, count=5).items()
    assert made("five", 5) != first


def test_mixtures_that_would_clip_are_turned_down_with_their_speech(sources):
    write(sources / "loud" / "anna.wav", 0.9 * CLEAN / np.max(np.abs(CLEAN)))
    found, _ = pairs.mix_pairs(sources / "loud", sources / "noises", [-10], 1, sources / "out")
    clean, noisy = (soundfile.read(path)[0] for path in (found[0].clean, found[0].test))
    assert np.max(np.abs(noisy)) == pytest.approx(0.99, abs=1e-3)
    assert 10 * np.log10(np.sum(clean**2) / np.sum((noisy - clean) ** 2)) == pytest.approx(-10, abs=0.02)


def test_silent_speech_or_noise_is_refused_or_left_out_of_the_mixtures(sources):
    write(sources / "speech" / "ben.wav", 0 * CLEAN)
    arguments = (sources / "speech", sources / "noises", [0], 2, sources / "out")
    with pytest.raises(AudioError, match=r"ben\.wav.*silent"):
        pairs.mix_pairs(*arguments)
    found, failures = pairs.mix_pairs(*arguments, on_error="skip")
    assert len(found) == 1 and len(failures) == 1 and "silent" in failures[0].reason


# ---- evaluation


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_speech_that_is_not_there_is_refused_or_left_out_of_the_mixtures(sources):
    (sources / "speech" / "gone.wav").symlink_to(sources / "nowhere.wav")
    folders = sources / "speech", sources / "noises"
    with pytest.raises(AudioError, match="no audio file at"):
        pairs.mix_pairs(*folders, [0], 3, sources / "out")
    found, failures = pairs.mix_pairs(*folders, [0], 3, sources / "out", on_error="skip")
    assert len(found) == 2 and "gone.wav" in failures[0].reason


def test_rows_have_all_eight_measures_and_agree_however_many_processes(folders):
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")
    before = os.environ.get("OMP_NUM_THREADS")
    one = evaluate.evaluate_pairs(found)
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert set(one.rows) == {"a", "sub/b"} and not one.failures
    assert all(list(row) == list(reports.PAIRED) for row in one.rows.values())
    two = evaluate.evaluate_pairs(found, jobs=2)
    assert os.environ.get("OMP_NUM_THREADS") == before
    for name, row in one.rows.items():
        assert two.rows[name] == pytest.approx(row, abs=1e-9)


def bad_length(folder):
    write(folder / "noisy" / "a.wav", NOISY[:-7])
    return "39993 at 16000 Hz"


def bad_rate(folder):
    write(folder / "noisy" / "a.wav", NOISY, 48000)
    return "48000 Hz"


def silent_clean(folder):
    write(folder / "clean" / "a.wav", 0 * CLEAN)
    return "silent"


def damaged(folder):
    (folder / "noisy" / "a.wav").write_bytes(b"RIFF")
    return "no audio that can be read"


@pytest.mark.parametrize("spoil", [bad_length, bad_rate, silent_clean, damaged])
def test_a_pair_that_can_not_be_compared_is_refused_or_left_out_by_name(folders, spoil):
    reason = spoil(folders)
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")
    with pytest.raises(AudioError, match=f"a: pair: .*{reason}"):
        evaluate.evaluate_pairs(found)
    report = evaluate.evaluate_pairs(found, on_error="skip")
    assert list(report.rows) == ["sub/b"]
    assert [(f.name, f.what) for f in report.failures] == [("a", "pair")]
    assert all(mean.count == 1 for mean in report.means().values())


def test_a_measure_that_can_not_be_had_is_left_out_of_its_mean_alone(folders):
    write(folders / "noisy" / "a.wav", 0 * CLEAN)  # an enhancer that removes everything
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")
    with pytest.raises(AudioError, match="a: pesq_wb: PESQ can't be computed"):
        evaluate.evaluate_pairs(found)
    report = evaluate.evaluate_pairs(found, on_error="skip")
    assert {f.what for f in report.failures} >= {"pesq_wb", "pesq_nb", "si_sdr", "csig"}
    means = report.means()
    assert means["pesq_wb"].count == 1 and means["ssnr"].count == 2
    assert all(np.isfinite(m.mean) for m in means.values())
    assert "(1)" in reports.table({"noisy": report}) and "nan" not in reports.table({"noisy": report})


def test_pesqs_no_utterance_is_a_failure_with_its_reason(folders):
    burst = np.where(abs(TIME - 1.25) < 0.025, 0.5 * np.sin(2 * np.pi * 440 * TIME), 0)  # 50 ms
    write(folders / "clean" / "a.wav", burst)
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")
    report = evaluate.evaluate_pairs(found, on_error="skip")
    reasons = {f.what: f.reason for f in report.failures}
    assert "No utterances" in reasons["pesq_wb"] and "csig" in reasons


def test_the_enhancer_is_measured_on_what_it_makes(folders):
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")
    report = evaluate.evaluate_pairs(found, enhancer=lambda p: soundfile.read(p.replace("noisy", "clean"))[0])
    assert all(row["pesq_wb"] > 4.6 for row in report.rows.values())
    noisy = evaluate.evaluate_pairs(found)
    assert min(reports.changes(noisy, report, "pesq_wb").values()) > 0.5


def test_an_enhancer_of_another_length_or_that_refuses_is_a_failure(folders):
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")

    def enhancer(path):
        if "b.wav" in path:
            raise AudioError("not this one")
        return NOISY[:-99]

    report = evaluate.evaluate_pairs(found, enhancer, on_error="skip")
    assert not report.rows
    assert [f.reason for f in report.failures] == ["the enhancer made 39901 samples of 40000", "not this one"]


def test_means_have_students_intervals():
    report = reports.Report(rows={"x": {"stoi": 1.0}, "y": {"stoi": 2.0}, "z": {"stoi": 3.0}})
    mean = report.means()["stoi"]
    assert (mean.mean, mean.count) == (2.0, 3)
    assert mean.interval == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert report.means(["x"])["stoi"].interval is None


def test_missing_packages_are_named_before_any_work(folders, monkeypatch):
    found, _ = pairs.find_pairs(folders / "clean", folders / "noisy")
    monkeypatch.setitem(sys.modules, "pystoi", None)
    with pytest.raises(ZipEnhancerError, match=r"pystoi.*pip install") as caught:
        evaluate.evaluate_pairs(found)
    assert isinstance(caught.value, ImportError)


# ---- the command


def test_the_command_prints_a_table_and_writes_a_csv_and_pictures(folders, capsys):
    pytest.importorskip("matplotlib")
    options = ("--clean", folders / "clean", "--noisy", folders / "noisy", "--enhanced", folders / "clean")
    outputs = ("--csv", folders / "out" / "r.csv", "--spectrograms", folders / "pictures")
    assert cli_evaluate.run(parsed(*options, *outputs)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "WB-PESQ" in shown[0] and shown[2].split("|")[2].strip() == "noisy" and "±" in shown[2]
    assert "over noisy; of the worst file +" in shown[-1]
    lines = list(csv.DictReader((folders / "out" / "r.csv").read_text("utf-8").splitlines()))
    noisy = [line for line in lines if line["system"] == "noisy"]
    assert [line["kind"] for line in noisy] == ["file", "file", "mean", "ci95", "count"]
    files, mean = [float(line["stoi"]) for line in noisy[:2]], float(noisy[2]["stoi"])
    assert mean == pytest.approx(np.mean(files))
    picture = folders / "pictures" / "noisy" / "sub" / "b.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not list(folders.rglob("*.part"))


def test_the_command_mixes_and_groups_by_snr(sources, capsys):
    options = ("--clean", sources / "speech", "--noise", sources / "noises", "--snr", 0, 20, "--count", 2)
    assert cli_evaluate.run(parsed(*options, "--mixtures", sources / "kept")) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["0 dB", "20 dB", "all"]
    assert [row[3].strip() for row in rows] == ["2", "2", "4"]
    low, high = (float(row[7].split("±")[0]) for row in rows[:2])  # SI-SDR
    assert low == pytest.approx(0, abs=0.5) and high == pytest.approx(20, abs=0.5)
    assert len(list((sources / "kept" / "noisy").iterdir())) == 4


def test_the_command_enhances_with_a_model(folders, small_model_dir, capsys):
    options = ("--clean", folders / "clean", "--noisy", folders / "noisy", "--model", small_model_dir)
    assert cli_evaluate.run(parsed(*options, "--device", "cpu")) == 0
    out = capsys.readouterr().out
    assert f"{small_model_dir}: WB-PESQ" in out


def test_the_command_scores_recordings_without_a_clean_reference(folders, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "dnsmos_session", lambda path: None)
    monkeypatch.setattr(evaluate, "dnsmos", lambda x, path: (3.0, 2.0, 1.5))
    assert cli_evaluate.run(parsed("--noisy", folders / "noisy", "--dnsmos", "some.onnx")) == 0
    out = capsys.readouterr().out
    assert "DNSMOS OVR" in out and "1.50 ± 0.00" in out and "PESQ" not in out


def test_what_the_command_leaves_out_it_names_and_counts(folders, capsys):
    silent_clean(folders)
    (folders / "noisy" / "sub" / "b.wav").rename(folders / "noisy" / "c.wav")
    options = ("--clean", folders / "clean", "--noisy", folders / "noisy")
    with pytest.raises(AudioError, match="--on-error skip"):
        cli_evaluate.run(parsed(*options))
    assert cli_evaluate.run(parsed(*options, "--on-error", "skip")) == 1  # nothing is left
    shown = capsys.readouterr().err
    assert "noisy: 3 left out" in shown and "c.wav" in shown and "silent" in shown


@pytest.mark.parametrize(
    "options, said",
    [
        ([], "nothing to measure"),
        (["--noisy", "x"], "--dnsmos"),
        (["--noise", "x"], "--clean"),
        (["--clean", "x", "--enhanced", "y", "--model", "tiny"], "--model needs"),
        (["--clean", "x", "--noisy", "y", "--count", "0"], "--count"),
        (["--clean", "x", "--noisy", "y", "--enhanced", "noisy"], "two systems would be called 'noisy'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said, capsys):
    assert cli_evaluate.run(parsed(*options)) == 2
    assert said in capsys.readouterr().err


def test_importing_it_imports_nothing_heavy():
    heavy = "{'torch', 'scipy', 'pesq', 'pystoi', 'matplotlib', 'onnxruntime', 'librosa'}"
    code = f"import sys, modelscope_zipenhancer.evaluate.run; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
