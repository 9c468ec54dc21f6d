"""Facts that several floors of the package share. Imports nothing."""

SAMPLE_RATE = 16000  # Hz, of every ZipEnhancer network
N_FFT = 400  # 25 ms, 201 bins of 40 Hz; also the window's length
HOP_LENGTH = 100  # 6.25 ms, 160 frames a second
COMPRESSION = 0.3  # exponent of the magnitudes that the network reads and writes
SILENCE_POWER = 1e-20  # mean square, -200 dBFS: below it there is nothing to enhance
TASK = "acoustic-noise-suppression"  # ModelScope's name of it
MODEL_TYPE = "speech_zipenhancer_ans_multiloss_16k_base"  # in ModelScope's registries and configuration.json
HUB_ID = f"damo/{MODEL_TYPE}"  # of the released weights
CONFIG_FILE = "configuration.json"  # of a ModelScope model dir, as is the next
WEIGHTS_FILE = "pytorch_model.bin"
ONNX_FILE = "model.onnx"  # this package's, from waveform to waveform
CARD_ONNX_FILE = "onnx_model.onnx"  # the hub's, from spectrum to spectrum
