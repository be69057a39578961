"""What a training run shows, keeps and stops for: logs, the live line, curves, sample rationales, health.

A step's values are one flat ``dict[str, float]``. A name is a group and a part, as in ``reward/total``; any name may be
missing in a step.

| group | values |
|---|---|
| `reward/` | `total` and the terms `positive`, `negative`, `consistency`, `hard`: means; and with `_std` each |
| `query_reward/` | the same for the queries' rollouts (variant `symmetric`) |
| `rollout/` | `length` and `max_length` in tokens, `eos_rate`, `distinct`, `tokens_per_second` |
| `vectors/` | `unrelated_similarity`, `query_negative_similarity`, `effective_rank` |
| `loss/` | `policy`, `kl`, `entropy`, `grad_norm`, `clip_fraction`, `learning_rate`, `logprob_gap`; `contrastive` |
| `kl/` | `start` |
| `eval/` | held-out retrieval: `ndcg@10`, `recall@1`, ... |
| `time/`, `progress/` | seconds of `step`, `rollout`, `update`; `epoch` |

`_std` is the mean standard deviation within groups: what the advantages, and so the training, can see of a term.
"""
