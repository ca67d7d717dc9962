"""Make a network better under smoothing: a plain training loop, with noise on its input from one
hook.

python examples/finetune_with_noise.py photos/*.jpg --steps 200 --out tuned.safetensors
"""

import argparse

import torch
from safetensors.torch import save_model
from torch.nn import functional as F

from smoothsr import adapters
from smoothsr.files import images
from smoothsr.training import NoiseAugmentation

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("photos", nargs="+")
parser.add_argument("--model", default="builtin-clean")
parser.add_argument("--sigma", type=float, nargs=2, default=(0.0, 0.1))
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--out", default="tuned.safetensors")
args = parser.parse_args()
photos = [images.read(path).pixels for path in images.find(args.photos)]
loaded = adapters.load(args.model)
model, scale, patch = loaded.model.train(), loaded.scale, 48 * loaded.scale
handle = NoiseAugmentation(tuple(args.sigma)).attach(
    model
)  # noise from here on, in train mode only
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

for step in range(args.steps):
    photo = photos[step % len(photos)]
    top, left = (int(torch.randint(max(1, side - patch), ())) for side in photo.shape[2:])
    hr = photo[:, :, top : top + patch, left : left + patch]
    lr = F.interpolate(
        hr, (hr.shape[2] // scale, hr.shape[3] // scale), mode="bicubic", antialias=True
    )
    loss = F.l1_loss(model(lr), hr[:, :, : lr.shape[2] * scale, : lr.shape[3] * scale])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

handle.remove()  # and the network is as it was, but for its weights
save_model(model.eval(), args.out)
