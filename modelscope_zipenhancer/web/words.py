"""What the page says, in English and Chinese."""

# key: (English, Chinese); {names} are filled in.
WORDS = {
    "title": ("# Speech without the noise", "# 去掉噪声，留下语音"),
    "lead": (
        "Upload a recording of speech, or make one, and hear it enhanced.",
        "上传或录制一段语音，听听增强后的效果。",
    ),
    "recording": ("Recording", "录音"),
    "limits": (
        "WAV, MP3, M4A, FLAC, Ogg, WebM and more; up to {megabytes} MB and {minutes} minutes.",
        "支持 WAV、MP3、M4A、FLAC、Ogg、WebM 等格式；最大 {megabytes} MB，最长 {minutes} 分钟。",
    ),
    "examples": ("Examples", "示例"),
    "fan": ("A fan and mains hum", "风扇与电流声"),
    "rain": ("Rain, in Chinese", "雨声"),
    "model": ("Model", "模型"),
    "released": ("ZipEnhancer, as released", "ZipEnhancer 官方模型"),
    "model_info": (
        "tiny is small and quick. The released one sounds better, takes longer, and is downloaded from "
        "ModelScope when it is first used.",
        "tiny 小而快。官方发布的模型效果更好，但用时更长，首次使用时会从 ModelScope 下载。",
    ),
    "strength": ("Noise is turned down by at most, dB", "噪声最多降低（dB）"),
    "strength_info": (
        "Less than all of it sounds more natural. At {most}, as much as the model can.",
        "保留一点环境声更自然。设为 {most} 时，模型会尽力去除噪声。",
    ),
    "bandwidth": ("Keep what is above 8 kHz, while there is speech", "有语音时保留 8 kHz 以上的频带"),
    "bandwidth_info": (
        "For recordings at 44.1 or 48 kHz; otherwise it is dropped.",
        "适用于 44.1 或 48 kHz 的录音；不选则舍弃。",
    ),
    "enhance": ("Enhance", "增强"),
    "cancel": ("Cancel", "取消"),
    "before": ("Before", "增强前"),
    "after": ("After", "增强后"),
    "before_heading": ("## Before", "## 增强前"),
    "after_heading": ("## After", "## 增强后"),
    "download": ("Download WAV", "下载 WAV"),
    "reading": ("Reading the recording", "正在读取录音"),
    "loading": ("Loading the model {model}", "正在加载模型 {model}"),
    "enhancing": ("Enhancing: {done} of {total}", "正在增强：{done} / {total}"),
    "drawing": ("Drawing the spectrograms", "正在绘制语谱图"),
    "done": ("{name}: {length} enhanced.", "{name}：已增强 {length}。"),
    "length": ("Length", "时长"),
    "level": ("Level", "电平"),
    "background": ("Background", "背景噪声"),
    "work": ("Time", "用时"),
    "level_info": ("of the whole", "整段录音"),
    "background_info": ("of the quietest tenth", "最安静的十分之一"),
    "work_value": ("{seconds} s", "{seconds} 秒"),
    "work_info": ("RTF {rtf}", "RTF {rtf}"),
    "picture_before": ("Spectrogram before, 0 to {top} kHz", "增强前的语谱图，0 到 {top} kHz"),
    "picture_after": ("Spectrogram after, 0 to {top} kHz", "增强后的语谱图，0 到 {top} kHz"),
    "nothing": (
        "There is no recording yet: upload one, record one, or take an example.",
        "还没有录音：请上传、录制，或选择一个示例。",
    ),
    "gone": (
        "{name} isn't on the server any more: upload it again.",
        "{name} 已从服务器上删除：请重新上传。",
    ),
    "cancelled": ("Cancelled.", "已取消。"),
    "unreadable": (
        "{name} can't be read as audio. It may be damaged, or of an unknown kind: try WAV or MP3.",
        "{name} 无法作为音频读取。文件可能已损坏或格式未知：请试试 WAV 或 MP3。",
    ),
    "too_large": (
        "{name} is too large. The limits are {megabytes} MB and {minutes} minutes: cut it, or use the "
        "zipenhancer command, which takes any length.",
        "{name} 太大。上限为 {megabytes} MB 和 {minutes} 分钟：请剪短，或使用不限长度的 zipenhancer 命令。",
    ),
    "no_model": (
        "The model {model} can't be had now. Try again later, or choose tiny.",
        "模型 {model} 暂时无法获取。请稍后再试，或选择 tiny。",
    ),
    "failed": ("This didn't work: {reason}", "处理失败：{reason}"),
    "busy": (
        "Too many are waiting now. Try again in a minute.",
        "当前排队的人太多。请稍后再试。",
    ),
    "about": (
        "ZipEnhancer, on this server. Recordings are deleted from it after an hour.",
        "ZipEnhancer，在本服务器上运行。录音将在一小时后从服务器上删除。",
    ),
}


def is_chinese(accept_language: str | None) -> bool:
    """Whether a browser that sends this header prefers Chinese."""
    return (accept_language or "").strip().lower().startswith("zh")


def text(key: str, chinese: bool, **values: object) -> str:
    """A sentence of WORDS in one of the languages."""
    return WORDS[key][chinese].format(**values)


def translations(**values: object) -> dict[str, dict[str, str]]:
    """All sentences by language, as gradio's I18n wants them; those that need no other values filled in."""
    filled: dict[str, dict[str, str]] = {"en": {}, "zh-CN": {}}
    for key in WORDS:
        for chinese, language in enumerate(filled):
            try:
                filled[language][key] = text(key, bool(chinese), **values)
            except KeyError:
                continue  # one for the server to say
    return filled
