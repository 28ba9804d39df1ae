"""CPU time of SAM's ViT-B image encoder: ours against segment-anything, same random weights, one image.

    python -m benchmarks.sam_encoder --image-size 1024

The two take turns, and the best of all turns counts.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from benchmarks.report import say, section
from pixel_llm.core.sam_image_encoder import SamImageEncoder

TEXT = """SAM's ViT-B image encoder on one image, against segment-anything with the same random weights. The largest
difference of the outputs is given beside their largest value."""
HEADER = ["image side", "segment-anything, s", "ours, s", "times faster", "aim", "max difference", "output scale"]
AIM = "1.5"
WIDTH, DEPTH, HEADS, GLOBAL_BLOCKS = 768, 12, 12, (2, 5, 8, 11)


def build(image_size: int) -> tuple[ImageEncoderViT, SamImageEncoder]:
    """Both encoders at the size of ViT-B with the same random weights."""
    torch.manual_seed(0)
    theirs = ImageEncoderViT(
        img_size=image_size,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=GLOBAL_BLOCKS,
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.02)
    ours = SamImageEncoder(width=WIDTH, depth=DEPTH, heads=HEADS, global_blocks=GLOBAL_BLOCKS, image_size=image_size)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def timed(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[float, Tensor]:
    """CPU seconds of one pass, and its output."""
    start = time.process_time()
    features = encode(pixels)
    return time.process_time() - start, features


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=1024, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=2, help="passes of each encoder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    theirs, ours = build(options.image_size)
    pixels = torch.randn(1, 3, options.image_size, options.image_size)
    turns = [(timed(theirs, pixels), timed(ours.encode, pixels)) for _ in range(options.repeats)]
    reference, own = (min(turn[side][0] for turn in turns) for side in (0, 1))
    wanted, got = turns[0][0][1], turns[0][1][1]
    difference, scale = (got - wanted).abs().max().item(), wanted.abs().max().item()
    say(f"   {options.image_size} pixels: {reference:.2f} s against {own:.2f} s")
    faster = f"{reference / own:.2f}"
    row = [options.image_size, f"{reference:.2f}", f"{own:.2f}", faster, AIM, f"{difference:.1e}", f"{scale:.2f}"]
    print(section("SAM's image encoder", TEXT, HEADER, [row]))


if __name__ == "__main__":
    main()
