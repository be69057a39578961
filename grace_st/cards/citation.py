"""How the method is cited."""

CITATION = """@article{sun2025grace,
  title   = {GRACE: Generative Representation Learning via Contrastive Policy Optimization},
  author  = {Sun, Jiashuo and Liu, Shixuan and Su, Zhaochen and Zhong, Xianrui and Jiang, Pengcheng and
             Jin, Bowen and Li, Peiran and Shi, Weijia and Han, Jiawei},
  journal = {arXiv preprint arXiv:2510.04506},
  year    = {2025}
}"""
