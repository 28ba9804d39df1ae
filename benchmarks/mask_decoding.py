"""CPU time of SAM's mask decoder on many prompts: ours in one call against segment-anything in loops.

    python -m benchmarks.mask_decoding --prompts 64 --images 8

The three take turns on the same random weights and inputs, and the best of all turns counts.
"""

import argparse
import time
from collections.abc import Callable

import torch
from segment_anything.modeling import MaskDecoder as TheirMaskDecoder
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor

from benchmarks.report import say, section
from pixel_llm.core.mask_decoder import MaskDecoder

TEXT = """SAM's mask decoder on {prompts} boxes in {images} images, one mask each: ours in one call, against
segment-anything with the same random weights, one prompt at a time and one image at a time with its prompts
together. A grid of 24 is a canvas of 384 pixels, the published PixelLLM; one of 64 is SAM's own. The largest
difference of the masks is given beside their largest value."""
HEADER = ["grid", "by prompt, s", "by image, s", "ours, s", "times faster", "aim", "max difference", "output scale"]
AIM = "3"
WIDTH, DEPTH, HEADS, MLP = 256, 2, 8, 2048

Decode = Callable[[], Tensor]


def build() -> tuple[TheirMaskDecoder, MaskDecoder]:
    """Both decoders at SAM's size with the same random weights."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=DEPTH, embedding_dim=WIDTH, num_heads=HEADS, mlp_dim=MLP)
    theirs = TheirMaskDecoder(transformer_dim=WIDTH, transformer=transformer)
    ours = MaskDecoder(width=WIDTH, depth=DEPTH, heads=HEADS, mlp=MLP)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def ways(theirs: TheirMaskDecoder, ours: MaskDecoder, grid: int, images: int, prompts: int) -> list[Decode]:
    """Prompt by prompt, image by image, all at once: each makes float[prompts, 1, 4 * grid, 4 * grid]."""
    features, position = torch.randn(images, WIDTH, grid, grid), torch.randn(1, WIDTH, grid, grid)
    sparse, dense = torch.randn(prompts, 2, WIDTH), torch.randn(1, WIDTH)
    index = torch.arange(prompts) * images // prompts
    spread = dense[..., None, None].expand(-1, -1, grid, grid)

    def one_call(image: int, corners: Tensor) -> Tensor:
        return theirs(features[image : image + 1], position, corners, spread, multimask_output=False)[0]

    def by_prompt() -> Tensor:
        return torch.cat([one_call(image, sparse[i : i + 1]) for i, image in enumerate(index.tolist())])

    def by_image() -> Tensor:
        return torch.cat([one_call(image, sparse[index == image]) for image in range(images)])

    def at_once() -> Tensor:
        return ours(features, position[0], sparse, dense, index)[0]

    return [by_prompt, by_image, at_once]


def timed(decode: Decode) -> tuple[float, Tensor]:
    """CPU seconds of one call, and its masks."""
    start = time.process_time()
    masks = decode()
    return time.process_time() - start, masks


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64, help="boxes in all")
    parser.add_argument("--images", type=int, default=8, help="images that they are spread over")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each way")
    options = parser.parse_args()
    torch.set_num_threads(1)
    decoders, rows = build(), []
    for grid in (24, 64):
        decodes = ways(*decoders, grid, options.images, options.prompts)
        turns = [[timed(decode) for decode in decodes] for _ in range(options.repeats)]
        by_prompt, by_image, own = (min(turn[way][0] for turn in turns) for way in range(3))
        say(f"   grid {grid}: {by_prompt:.2f} s, {by_image:.2f} s against {own:.2f} s")
        _, wanted, got = (masks for _, masks in turns[0])
        faster = f"{by_prompt / own:.2f} and {by_image / own:.2f}"
        times = [f"{seconds:.2f}" for seconds in (by_prompt, by_image, own)]
        difference, scale = (got - wanted).abs().max().item(), wanted.abs().max().item()
        rows.append([grid, *times, faster, AIM, f"{difference:.1e}", f"{scale:.2f}"])
    text = TEXT.format(prompts=options.prompts, images=options.images)
    print(section("Mask decoding", text, HEADER, rows))


if __name__ == "__main__":
    main()
