"""Package metadata; `pip install .` or `pip install .[dev]`."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

if __name__ == "__main__":  # ModelScope may import every .py of a model dir
    setup(
        name="modelscope_zipenhancer",
        version="0.1.0",
        description="ZipEnhancer speech denoising: a fast, clean drop-in for ModelScope's pipeline",
        long_description=(HERE / "README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        packages=find_packages(include=["modelscope_zipenhancer*"]),
        package_data={"modelscope_zipenhancer": ["models/*/*", "train/configs/*"]},
        python_requires=">=3.10",
        # Why each is here: docs/deployment.md
        install_requires=[
            "modelscope>=1.20",
            "torch>=2.4",
            "numpy",
            "soundfile>=0.12",
            "soxr",
            "librosa",
            "tqdm",
            "addict",
            "simplejson",
            "datasets",
            "Pillow",
            "sortedcontainers",
        ],
        extras_require={
            "plot": ["matplotlib"],
            "train": ["pesq", "pystoi", "scipy", "torchaudio"],
            "eval": ["pesq", "pystoi", "scipy", "matplotlib"],
            "dev": [
                "pytest",
                "ruff",
                "matplotlib",
                "onnx",
                "onnxruntime",
                "pesq",
                "pystoi",
                "scipy",
                "six",  # FRCRN, which must go on working beside us, imports it
            ],
        },
        entry_points={"console_scripts": ["zipenhancer=modelscope_zipenhancer.cli:main"]},
    )
