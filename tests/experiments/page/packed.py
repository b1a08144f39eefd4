"""The data of a page, read as its scripts read them."""

import base64
import json
import re

import numpy as np


def data_of(content):
    (packed,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', content.decode(), re.DOTALL)
    return json.loads(packed)


def numbers(packed):
    return np.frombuffer(base64.b64decode(packed["base64"]), packed["dtype"])
