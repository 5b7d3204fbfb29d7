"""One training run on a real GPU with one allocator; prints one line of JSON. tools/gpu_report.py starts it, a process
for each run, because PyTorch's allocator can be chosen only once per process.

    gpu_report_torch.py --allocator native|expandable|async|acre --model transformer|image --batch N --steps N
                        [--warm N] [--cap BYTES] [--seed N] [--plugin build/libacre_torch.so]

The caller sets PYTORCH_CUDA_ALLOC_CONF. Models, lengths and resolutions are those of gpu_report_trace.py."""
import argparse
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "plugins", "torch"))

from gpu_report_trace import ResidualNet, image_sides, transformer_lengths  # noqa: E402


def build_transformer(torch, width=768, layers=12, heads=12, vocabulary=32000, length_max=1024):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            batch, length, _ = x.shape
            q, k, v = (
                part.view(batch, length, heads, width // heads).transpose(1, 2)
                for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
            return x + self.down(functional.gelu(self.up(self.norm_feed(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length_max, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(width)

        def forward(self, tokens):
            places = torch.arange(tokens.shape[1], device=tokens.device)
            x = self.blocks(self.token(tokens) + self.place(places))
            return functional.linear(self.norm(x), self.token.weight)

    return Model()


def build_image_model(torch, classes=1000):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inside, out, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
                nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
            )
            self.skip = nn.Identity()
            if stride != 1 or inside != out:
                self.skip = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x):
            return torch.relu(self.body(x) + self.skip(x))

    parts = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for channels, blocks in ResidualNet.STAGES:
        for block in range(blocks):
            parts.append(Block(before, channels, 2 if block == 0 and channels != 64 else 1))
            before = channels
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*parts)


class Feeder:
    """Copies the next batch on a stream of its own while the GPU computes, as training loops do."""

    def __init__(self, torch, device, make):
        self.torch, self.device, self.make = torch, device, make
        self.stream = torch.cuda.Stream(device)
        self.waiting = None

    def prefetch(self, size):
        host = [t.pin_memory() for t in self.make(size)]
        with self.torch.cuda.stream(self.stream):
            self.waiting = [t.to(self.device, non_blocking=True) for t in host]

    def take(self):
        current = self.torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for tensor in self.waiting:
            tensor.record_stream(current)
        batch, self.waiting = self.waiting, None
        return batch


def train(torch, arguments, device):
    torch.manual_seed(arguments.seed)
    functional, steps = torch.nn.functional, arguments.warm + arguments.steps
    host = torch.Generator().manual_seed(arguments.seed)
    if arguments.model == "transformer":
        sizes = transformer_lengths(steps, arguments.seed)
        model = build_transformer(torch).to(device)

        def make(length):
            tokens = torch.randint(0, 32000, (arguments.batch, length + 1), generator=host)
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

        def loss_of(inputs, targets):
            return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    else:
        sizes = image_sides(steps, arguments.seed)
        model = build_image_model(torch).to(device)

        def make(side):
            images = torch.rand((arguments.batch, 3, side, side), generator=host)
            return images, torch.randint(0, 1000, (arguments.batch,), generator=host)

        def loss_of(inputs, targets):
            return functional.cross_entropy(model(inputs), targets)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    feeder = Feeder(torch, device, make)
    feeder.prefetch(sizes[0])
    times, loss_value = [], 0.0
    for number in range(steps):
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        inputs, targets = feeder.take()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        loss_value = loss.item()
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
        del inputs, targets, loss
        if number + 1 < steps:
            feeder.prefetch(sizes[number + 1])
        if arguments.model == "image" and number % 20 == 19:
            model.eval()
            with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
                model(torch.rand((2 * arguments.batch, 3, 224, 224), device=device))
            model.train()
    return times[arguments.warm:], loss_value


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--allocator", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--cap", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plugin", default="build/libacre_torch.so")
    arguments = parser.parse_args()

    import torch

    acre = None
    if arguments.allocator == "acre":
        import acre_torch

        acre = acre_torch.use(arguments.plugin)
    device = torch.device("cuda", 0)
    total = torch.cuda.get_device_properties(device).total_memory
    if arguments.cap:
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.cap / total), device)

    result = {"allocator": arguments.allocator, "model": arguments.model, "batch": arguments.batch,
              "gpu": torch.cuda.get_device_name(device), "torch": torch.__version__, "out_of_memory": False}
    try:
        times, loss = train(torch, arguments, device)
        result.update(step_seconds=sorted(times)[len(times) // 2], step_seconds_mean=sum(times) / len(times), loss=loss)
    except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        result.update(out_of_memory=True, message=str(error)[:2000])
    if acre:
        heap = acre.stats()["devices"][0]
        result.update(reserved_peak=heap["held_peak_bytes"], allocated_peak=heap["requested_peak_bytes"],
                      driver_calls=heap["driver_calls"])
    else:
        stats = torch.cuda.memory_stats(device)
        result.update(
            reserved_peak=torch.cuda.max_memory_reserved(device),
            allocated_peak=stats.get("requested_bytes.all.peak") or torch.cuda.max_memory_allocated(device),
            driver_calls=stats.get("num_device_alloc", 0) + stats.get("num_device_free", 0),
        )
    free, _ = torch.cuda.mem_get_info(device)
    result["device_used_at_end"] = total - free
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
