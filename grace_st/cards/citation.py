"""How the method is cited."""

CITATION = """@misc{grace2025,
  title = {{GRACE}: Generative Representation Learning via Contrastive Policy Optimization},
  author = {Sun, Jiashuo and Liu, Shixuan and Su, Zhaochen and Zhong, Xianrui and Jiang, Pengcheng and Jin, Bowen and
            Li, Peiran and Shi, Weijia and Han, Jiawei},
  eprint = {2510.04506},
  archivePrefix = {arXiv},
  year = {2025}
}"""
