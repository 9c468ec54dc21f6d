"""The card's second sample: a recording in blocks of 2 s, each as the bytes of a WAV file."""

import io

from modelscope.fileio import File
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks


def with_header(pcm, sample_rate=16000, channels=1, bits=16):
    def number(value, size):
        return value.to_bytes(size, byteorder="little")

    frame = channels * bits // 8
    header = bytearray(b"RIFF" + number(4 + 8 + 16 + 8 + len(pcm), 4) + b"WAVE")
    header.extend(b"fmt " + number(16, 4) + number(1, 2) + number(channels, 2) + number(sample_rate, 4))
    header.extend(number(sample_rate * frame, 4) + number(frame, 2) + number(bits, 2))
    header.extend(b"data" + number(len(pcm), 4))
    return bytes(header) + pcm


ans = pipeline(Tasks.acoustic_noise_suppression, model="damo/speech_zipenhancer_ans_multiloss_16k_base")

stream = io.BytesIO(
    File.read("https://modelscope.oss-cn-beijing.aliyuncs.com/test/audios/speech_with_noise1.wav")
)
stream.read(44)
received, outputs = 0, b""
while pcm := stream.read(2 * 16000 * 2):
    received += len(pcm)
    result = ans(with_header(pcm))
    outputs = outputs + result["output_pcm"]
with open("output.wav", "wb") as file:
    file.write(with_header(outputs[:received]))
