"""Trains a Llama checkpoint with PyTorch and transformers on the CPU and prints one line of JSON: the time of each step.

  python3 bench/runners/torch-training.py --model DIR --batches FILE [--precision float32|autocast|bfloat16]

autocast: f32 weights and moments, matrix products in bf16, as Spillway's "bfloat16" has f32 master copies.
bfloat16: weights, gradients and moments all in bf16, which is less memory and less exact.
Everything stays in RAM, activations are kept (no checkpointing), AdamW is the fused one: PyTorch at its fastest.
"""

import argparse
import json
import os
import resource
import time

os.environ["HF_HUB_OFFLINE"] = "1"  # the checkpoint is a folder; nothing is to be looked up

import torch
import transformers


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batches", required=True, help="file of [batch][sequence][token]")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup-steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=["float32", "autocast", "bfloat16"], default="float32")
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    return parser.parse_args()


def main():
    o = options()
    torch.set_num_threads(o.threads)
    with open(o.batches) as file:
        batches = [torch.tensor(batch) for batch in json.load(file)]
    began = time.perf_counter()
    weights = torch.bfloat16 if o.precision == "bfloat16" else torch.float32
    model = transformers.LlamaForCausalLM.from_pretrained(o.model).to(weights)
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    create_s = time.perf_counter() - began

    def step(ids):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.precision == "autocast"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norm = None
        if o.max_grad_norm > 0:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), o.max_grad_norm).item()
        optimizer.step()
        return loss.item(), norm

    steps, losses = [], []
    for i in range(o.warmup_steps + o.steps):
        began = time.perf_counter()
        loss, norm = step(batches[i % len(batches)])
        losses.append(loss)
        if i >= o.warmup_steps:
            steps.append({"seconds": time.perf_counter() - began, "loss": loss, "grad_norm": norm})
    print(
        json.dumps(
            {
                "engine": "pytorch",
                "version": f"torch {torch.__version__}, transformers {transformers.__version__}",
                "create_s": create_s,
                "parameters": sum(p.numel() for p in model.parameters()),
                "tokens": batches[0].numel(),
                "losses": losses,
                "steps": steps,
                "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


if __name__ == "__main__":
    main()
