"""Split the gathered recordings into train, valid and test, by speaker and by source.

    python benchmarks/split.py ../shared/audio OUT

OUT/{train,valid,test}/{clean,noise,rir}/SOURCE/ then hold links to the recordings. A speaker, and a
noise with all its parts, is on one side only. Which side is fixed here, once: `test` is scored once for
a release and never looked at in between (docs/training.md).
"""

import hashlib
import os
import re
import sys

WHOLE = {  # sources that are on one side as they are
    "train/clean": "train",
    "valid/clean": "valid",
    "world/clean/picovoice-wake-word": "train",  # speakers aren't named, and are those of train/clean in part
    "world/clean/kerstin-de": "train",  # one speaker
    "world/clean/picovoice-sdk-samples": "test",
    "train/noise": "train",
    "valid/noise": "valid",
    "world/noise/keystrokes-zoom": "train",
    "world/noise/drunkentoast-gui": "train",
    "world/noise/modern-alarm-clock": "train",
    "world/noise/sonic-pi-samples": "train",
    "world/noise/ambient-engine": "valid",
    "world/noise/ibm-max-samples": "test",
    "world/noise/precise-bg": "test",
    "world/noise/arabic-sc-background": "test",
    "world/rir/web-audio-samples": "train",
    "world/rir/toobamp-openair": "test",
}
KEYS = {  # sources that are divided: what of a file's name is its speaker, noise or room
    "world/clean/speechocean762": r"SPEAKER\d+",
    "world/clean/arabic-speech-commands": r"\d+",
    "world/clean/librispeech-resemblyzer": r"\d+",
    "world/clean/asterisk-prompts": r"[a-z]+",
    "world/noise/berlin-noise": r"[^_]+",
    "world/noise/mod-sounds": r".+?(?=_?\d*(_\d+)?\.flac)",
    "world/rir/simulated-pyroomacoustics": r"room\d+",
    "world/rir/voxengo": r".+",
}
FIXED = {
    "asterisk-prompts/it": "train",
    "asterisk-prompts/ru": "test",
    "mod-sounds/bicycle_spokes": "train",  # cut from one recording with bicycle_bell and _horn
    "mod-sounds/parrot_chirp": "train",  # and this with the other parrots
}


def side(source: str, name: str) -> str:
    """'train', 'valid' or 'test': about 70, 12 and 18 of 100 keys of a divided source."""
    if source in WHOLE:
        return WHOLE[source]
    key = f"{os.path.basename(source)}/{re.match(KEYS[source], name)[0]}"
    place = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return FIXED.get(key) or ("train" if place < 70 else "valid" if place < 82 else "test")


def main(audio: str, out: str) -> None:
    counts = {}
    for source in (*WHOLE, *KEYS):
        kind = next(part for part in source.split("/") if part in ("clean", "noise", "rir"))
        folder = os.path.join(audio, source)
        for name in sorted(os.listdir(folder)):
            if not name.endswith((".flac", ".wav")):
                continue
            where = (side(source, name), kind, source.replace("world/", "").replace("/", "-"))
            counts[where] = counts.get(where, 0) + 1
            target = os.path.join(out, *where, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.lexists(target):
                os.symlink(os.path.abspath(os.path.join(folder, name)), target)
    for where, count in sorted(counts.items()):
        print(*where, count)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
