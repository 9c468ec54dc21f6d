"""The card's fourth sample: the network of a pipeline, traced and exported as ONNX."""

import onnx
import torch
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
from torch import nn

ONNX_FILE = "ans_pipeline_onnx.onnx"
MAX_FRAMES = 161 * 60


class Network(nn.Module):
    def __init__(self, ans):
        super().__init__()
        self.model = ans.model.model

    def forward(self, noisy_amp, noisy_pha):
        amp_g, pha_g, _, _, _ = self.model(noisy_amp, noisy_pha)
        return amp_g, pha_g


ans = pipeline(Tasks.acoustic_noise_suppression, model="damo/speech_zipenhancer_ans_multiloss_16k_base")
model = Network(ans)

inputs = torch.randn(1, 201, 161 * 2), torch.randn(1, 201, 161 * 2)
for name, module in model.model.TSConformer.encoders.named_modules():
    if name.endswith("encoder_pos"):
        module.extend_pe(torch.tensor(0.0).expand(MAX_FRAMES))
model = torch.jit.trace(model, inputs)
model.eval()
torch.onnx.export(
    model,
    inputs,
    ONNX_FILE,
    verbose=False,
    opset_version=13,
    input_names=["noisy_mag", "noisy_pha"],
    output_names=["amp_g", "pha_g"],
    dynamic_axes={
        "noisy_mag": {0: "N", 2: "T"},
        "noisy_pha": {0: "N", 2: "T"},
        "amp_g": {0: "N", 2: "T"},
        "pha_g": {0: "N", 2: "T"},
    },
)
exported = onnx.load(ONNX_FILE)
for key, value in {"model_type": "ZipEnhancerS", "version": "1"}.items():
    meta = exported.metadata_props.add()
    meta.key = key
    meta.value = value
onnx.save(exported, ONNX_FILE)
