"""Traces of what a training step allocates, computed from the shapes of a model.

No GPU and no torch are needed: a step is a list of events, made from the same shapes as the models of
gpu_report_torch.py. Sizes are those of the tensors that such a step makes under bfloat16 autocast with AdamW in
float32 (parameters, copies of weights, activations, gradients, optimizer state, temporaries); workspaces of kernels are
a guess by shape, the same for every allocator. What a real run allocates differs in detail: these traces are for
comparing policies with each other, not for predicting a model's memory.

An event is a tuple:
    (ALLOC, id, bytes, stream)    ids count up and are never used again
    (FREE, id)
    (USED, id, stream)            a stream other than the block's own uses it (tensor.record_stream)
    (STEP, number)                the host has waited for the step's last kernel (loss.item())
"""
import random

ALLOC, FREE, USED, STEP = range(4)
COMPUTE, COPY = 0, 1  # streams: kernels, and the copies of the next batch that run beside them


class Tape:
    """Collects events; knows what is live."""

    def __init__(self):
        self.events = []
        self.live = {}
        self.count = 0

    def new(self, nbytes, stream=COMPUTE):
        number = self.count
        self.count += 1
        nbytes = max(int(nbytes), 1)
        self.events.append((ALLOC, number, nbytes, stream))
        self.live[number] = nbytes
        return number

    def free(self, *blocks):
        for block in blocks:
            del self.live[block]
            self.events.append((FREE, block))

    def used(self, block, stream):
        self.events.append((USED, block, stream))

    def temporary(self, nbytes):
        self.free(self.new(nbytes))


class Trainer:
    """What both models share: parameters, gradients, AdamW, batches that a second stream copies ahead."""

    def __init__(self, tape, parameter_elements):
        self.tape = tape
        self.elements = parameter_elements
        self.parameters = [tape.new(4 * n) for n in parameter_elements]
        self.state = None
        self.gradients = {}
        self.batch = None
        tape.new(8519680)  # the matrix library's workspace, once for good

    def weight(self, index):
        """autocast's copy in bfloat16; lives until the step's backward has used it."""
        return self.tape.new(2 * self.elements[index])

    def gradient(self, index):
        """Comes as bfloat16, is kept as float32."""
        half = self.tape.new(2 * self.elements[index])
        self.gradients[index] = self.tape.new(4 * self.elements[index])
        self.tape.free(half)

    def next_batch(self, nbytes):
        """Copied on its own stream while the step before computes."""
        fresh = self.tape.new(nbytes, COPY)
        self.tape.used(fresh, COMPUTE)
        if self.batch is not None:
            self.tape.free(self.batch)
        self.batch = fresh

    def optimize(self, number):
        tape = self.tape
        if self.state is None:
            self.state = [tape.new(4 * n) for n in self.elements for _ in range(2)]
        # The foreach form makes a list of temporaries as large as the parameters.
        temporaries = [tape.new(4 * n) for n in self.elements]
        tape.free(*temporaries)
        tape.free(*self.gradients.values())
        self.gradients = {}
        tape.events.append((STEP, number))


class Transformer(Trainer):
    """A decoder: embedding, `layers` × (attention, feed-forward of 4 × width), tied head."""

    def __init__(self, tape, width=768, layers=12, heads=12, vocabulary=32000, length_max=1024):
        self.width, self.layers, self.heads, self.vocabulary = width, layers, heads, vocabulary
        self.length_max = length_max
        block = [width, width, 3 * width * width, 3 * width, width * width, width, width, width,
                 4 * width * width, 4 * width, 4 * width * width, width]
        super().__init__(tape, [vocabulary * width, length_max * width] + block * layers + [width, width])
        self.per_block = len(block)

    def step(self, number, batch, length):
        tape, d, rows = self.tape, self.width, batch * length
        self.next_batch(rows * 8)
        loss_scalar = tape.new(4)
        x = tape.new(rows * d * 4)  # embeddings, float32
        saved = []
        for layer in range(self.layers):
            first = 2 + layer * self.per_block
            keep = []

            def save(nbytes):
                keep.append(tape.new(nbytes))
                return keep[-1]

            keep.append(x)
            save(rows * 4), save(rows * 4)  # mean and deviation of the norm
            save(rows * d * 2)              # its result, as the product takes it
            keep.append(self.weight(first + 2))
            save(rows * 3 * d * 2)          # queries, keys, values
            save(rows * d * 2)              # attention's result
            save(batch * self.heads * length * 4)
            keep.append(self.weight(first + 4))
            projected = tape.new(rows * d * 2)
            x = tape.new(rows * d * 4)      # residual sum
            tape.free(projected)
            keep.append(x)
            save(rows * 4), save(rows * 4)
            save(rows * d * 2)
            keep.append(self.weight(first + 8))
            save(rows * 4 * d * 2)
            save(rows * 4 * d * 2)          # after the activation function
            keep.append(self.weight(first + 10))
            out = tape.new(rows * d * 2)
            x = tape.new(rows * d * 4)
            tape.free(out)
            saved.append(keep)
        head = self.weight(0)
        normed = tape.new(rows * d * 2)
        logits = tape.new(rows * self.vocabulary * 2)
        wide = tape.new(rows * self.vocabulary * 4)
        soft = tape.new(rows * self.vocabulary * 4)
        tape.free(wide)

        # backward
        grad_logits = tape.new(rows * self.vocabulary * 4)
        tape.free(soft)
        narrow = tape.new(rows * self.vocabulary * 2)
        tape.free(grad_logits, logits)
        grad = tape.new(rows * d * 2)
        self.gradient(0)
        tape.free(narrow, head, normed)
        wide_grad = tape.new(rows * d * 4)
        tape.free(grad, x)
        grad = wide_grad
        for layer in reversed(range(self.layers)):
            first, keep = 2 + layer * self.per_block, saved.pop()
            (x0, mean0, dev0, norm0, w_qkv, qkv, mixed, lse, w_out, x1, mean1, dev1, norm1, w_up, up, act,
             w_down) = keep
            g = tape.new(rows * 4 * d * 2)
            self.gradient(first + 10), self.gradient(first + 11)
            tape.free(act, w_down)
            g2 = tape.new(rows * 4 * d * 2)
            tape.free(g, up)
            g3 = tape.new(rows * d * 2)
            self.gradient(first + 8), self.gradient(first + 9)
            tape.free(g2, w_up, norm1)
            sum_grad = tape.new(rows * d * 4)
            self.gradient(first + 6), self.gradient(first + 7)
            tape.free(g3, grad, x1, mean1, dev1)
            g = tape.new(rows * d * 2)
            self.gradient(first + 4), self.gradient(first + 5)
            tape.free(w_out)
            g2 = tape.new(rows * 3 * d * 2)
            tape.temporary(batch * self.heads * length * 4)
            tape.free(g, mixed, lse, qkv)
            g3 = tape.new(rows * d * 2)
            self.gradient(first + 2), self.gradient(first + 3)
            tape.free(g2, w_qkv, norm0)
            grad = tape.new(rows * d * 4)
            self.gradient(first), self.gradient(first + 1)
            tape.free(g3, sum_grad, x0, mean0, dev0)
        self.gradient(1)
        self.gradient(len(self.elements) - 2), self.gradient(len(self.elements) - 1)
        tape.free(grad, loss_scalar)
        self.optimize(number)


class ResidualNet(Trainer):
    """Convolutions in four stages of basic blocks, as in a ResNet-34; images of changing resolution."""

    STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))

    def __init__(self, tape, classes=1000):
        self.convolutions = [(3, 64, 7, 2)]  # in, out, kernel, stride
        before = 64
        for channels, blocks in self.STAGES:
            for block in range(blocks):
                stride = 2 if block == 0 and channels != 64 else 1
                self.convolutions += [(before, channels, 3, stride), (channels, channels, 3, 1)]
                before = channels
        elements = []
        for inside, out, kernel, _ in self.convolutions:
            elements += [inside * out * kernel * kernel, out, out]
        self.classes = classes
        super().__init__(tape, elements + [512 * classes, classes])

    @staticmethod
    def workspace(nbytes):
        """A kernel's scratch: in proportion to what it works on, within limits that libraries have."""
        return min(max(nbytes // 3, 4096), 64 << 20)

    def forward(self, batch, side, training):
        tape, saved = self.tape, []
        x = tape.new(batch * 3 * side * side * 2)
        for index, (_, out, kernel, stride) in enumerate(self.convolutions):
            side = (side + stride - 1) // stride
            nbytes = batch * out * side * side * 2
            w = self.weight(3 * index)
            tape.temporary(self.workspace(nbytes))
            y = tape.new(nbytes)
            mean, deviation = tape.new(out * 4), tape.new(out * 4)
            z = tape.new(nbytes)
            if training:
                saved.append((x, w, y, mean, deviation, nbytes))
            else:
                tape.free(x, w, y, mean, deviation)
            x = z
            if index == 0:  # pooling, with the places it took its maxima from
                side = (side + 1) // 2
                pooled = tape.new(batch * out * side * side * 2)
                places = tape.new(batch * out * side * side * 8)
                if training:
                    saved.append((x, places))
                else:
                    tape.free(x, places)
                x = pooled
        return x, saved

    def step(self, number, batch, side):
        tape = self.tape
        self.next_batch(batch * 3 * side * side * 4)
        x, saved = self.forward(batch, side, True)
        last = tape.new(batch * 512 * 2)
        logits = tape.new(batch * self.classes * 4)
        grad_logits = tape.new(batch * self.classes * 4)
        tape.free(logits)
        self.gradient(len(self.elements) - 2), self.gradient(len(self.elements) - 1)
        tape.free(grad_logits, last)
        grad = tape.new(saved[-1][5])
        tape.free(x)
        index = len(self.convolutions) - 1
        while saved:
            keep = saved.pop()
            if len(keep) == 2:
                unpooled = tape.new(saved[-1][5])
                tape.free(grad, *keep)
                grad = unpooled
                continue
            x, w, y, mean, deviation, nbytes = keep
            g = tape.new(nbytes)
            self.gradient(3 * index + 1), self.gradient(3 * index + 2)
            tape.free(grad, y, mean, deviation)
            tape.temporary(self.workspace(nbytes))
            grad = tape.new(self.tape.live[x])
            tape.temporary(self.workspace(nbytes * 2))
            self.gradient(3 * index)
            tape.free(g, x, w)
            index -= 1
        tape.free(grad)
        self.optimize(number)

    def evaluate(self, number, batch, side):
        x, _ = self.forward(batch, side, False)
        self.tape.free(x)
        self.tape.events.append((STEP, number))


def transformer_lengths(steps, seed=1, low=128, high=1024):
    """The longest sequence of each batch: many middling ones, some to the limit; multiples of eight."""
    dice = random.Random(seed)
    return [8 * max(low // 8, min(high // 8, int(dice.lognormvariate(6.1, 0.45)) // 8)) for _ in range(steps)]


def image_sides(steps, seed=1):
    """Multi-scale training: another resolution every few steps."""
    dice = random.Random(seed)
    sides = []
    while len(sides) < steps:
        sides += [dice.choice((160, 192, 224, 256, 288))] * 5
    return sides[:steps]


def transformer_trace(batch, steps, seed=1, **shape):
    tape = Tape()
    model = Transformer(tape, **shape)
    for number, length in enumerate(transformer_lengths(steps, seed, high=model.length_max)):
        model.step(number, batch, length)
    return tape.events


def image_trace(batch, steps, seed=1):
    tape = Tape()
    model = ResidualNet(tape)
    for number, side in enumerate(image_sides(steps, seed)):
        model.step(number, batch, side)
        if number % 20 == 19:
            model.evaluate(number, 2 * batch, 224)
    return tape.events


TRACES = {"transformer": transformer_trace, "image": image_trace}


def live_peak(events):
    """Most bytes live at once, unrounded."""
    sizes, live, peak = {}, 0, 0
    for event in events:
        if event[0] == ALLOC:
            sizes[event[1]] = event[2]
            live += event[2]
            peak = max(peak, live)
        elif event[0] == FREE:
            live -= sizes.pop(event[1])
    return peak
