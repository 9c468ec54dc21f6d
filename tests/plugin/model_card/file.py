"""The card's first sample: a file from a URL, the result into a file."""

from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

ans = pipeline(Tasks.acoustic_noise_suppression, model="damo/speech_zipenhancer_ans_multiloss_16k_base")
result = ans(
    "https://modelscope.oss-cn-beijing.aliyuncs.com/test/audios/speech_with_noise1.wav",
    output_path="output.wav",
)
print("done")
