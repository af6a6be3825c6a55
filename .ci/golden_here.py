"""golden_here.py BUNDLE COUNT EMBEDDINGS.npy: ask a bundle its golden requests on this processor, and print as JSON what came of
it; the vision embeddings go into a file, for comparison with another processor's."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from egm_edge.bundle import Bundle
from egm_edge.golden.check import check_golden
from egm_edge.golden.replies import read_golden
from egm_edge.grounder import Grounder

bundle, count, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
grounder = Grounder.from_opened(Bundle.open(bundle), threads=1, check=False)
golden = read_golden(grounder.bundle)
answers, embeddings = [], []
for reply in golden.replies[:count]:
    started = time.perf_counter()
    frame = grounder.frame(reply.picture)
    found = grounder.ground(frame, reply.expression, task=reply.task, max_new_tokens=golden.max_new_tokens)
    seconds = time.perf_counter() - started
    answers.append({"text": found.text, "box": found.box and found.box.xyxy, "reference": reply.box, "seconds": round(seconds, 2)})
    embeddings.append(frame.engine_frame.embeddings)
np.save(out, np.concatenate(embeddings))
brief = check_golden(grounder, grounder.facts, golden, brief=True)
print(json.dumps({"engine": grounder.facts.engine, "kl_nats": brief.kl_nats, "kl_bound": brief.kl_bound, "answers": answers}))
