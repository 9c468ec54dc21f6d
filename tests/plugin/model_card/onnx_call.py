"""The card's third sample: the ONNX file of the model repository, run by ONNX Runtime."""

import io
import os

import numpy as np
import onnxruntime
import soundfile as sf
import torch
from modelscope.fileio import File
from modelscope.models.audio.ans.zipenhancer import mag_pha_istft, mag_pha_stft
from modelscope.pipelines import pipeline
from modelscope.utils.audio.audio_utils import audio_norm
from modelscope.utils.constant import Tasks
from modelscope.utils.file_utils import get_modelscope_cache_dir

onnx_path = os.path.join(
    get_modelscope_cache_dir(), "hub/damo/speech_zipenhancer_ans_multiloss_16k_base/onnx_model.onnx"
)
if os.path.exists(onnx_path):
    os.remove(onnx_path)
ans = pipeline(Tasks.acoustic_noise_suppression, model="damo/speech_zipenhancer_ans_multiloss_16k_base")

session = onnxruntime.InferenceSession(onnx_path, providers=None)
wav, fs = sf.read(
    io.BytesIO(File.read("https://modelscope.oss-cn-beijing.aliyuncs.com/test/audios/speech_with_noise1.wav"))
)
wav = audio_norm(wav).astype(np.float32)
noisy = torch.from_numpy(np.reshape(wav, [1, wav.shape[0]]))
factor = torch.sqrt(noisy.shape[1] / torch.sum(noisy**2.0))
amp, pha, _ = mag_pha_stft(noisy * factor, 400, 100, 400, compress_factor=0.3, center=True)
inputs = {session.get_inputs()[0].name: amp.cpu().numpy(), session.get_inputs()[1].name: pha.cpu().numpy()}
outputs = session.run(None, inputs)
amp_g, pha_g = torch.from_numpy(outputs[0]), torch.from_numpy(outputs[1])
enhanced = mag_pha_istft(amp_g, pha_g, 400, 100, 400, compress_factor=0.3, center=True)
enhanced = (enhanced / factor).cpu().numpy()
sf.write("output.wav", (enhanced[0] * 32768).astype(np.int16), fs)
