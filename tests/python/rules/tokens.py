"""Tokens (R18): JWTs signed by keys of a JWKS, and what is wrong with some of them."""

import base64
import json
import time

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

AUDIENCE = "chat"


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, length):
    return text(value.to_bytes(length))


class Keys:
    """A key of each algorithm that the page names, and their JWKS."""

    def __init__(self):
        self.eddsa = ed25519.Ed25519PrivateKey.generate()
        self.es256 = ec.generate_private_key(ec.SECP256R1())
        self.rs256 = rsa.generate_private_key(65537, 2048)

    def jwks(self):
        point = self.es256.public_key().public_numbers()
        modulus = self.rs256.public_key().public_numbers()
        ed = {"kty": "OKP", "crv": "Ed25519", "x": text(self.eddsa.public_key().public_bytes_raw())}
        es = {"kty": "EC", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32)}
        rs = {"kty": "RSA", "n": number(modulus.n, 256), "e": number(modulus.e, 3)}
        keys = {"EdDSA": ed, "ES256": es, "RS256": rs}
        return json.dumps(
            {"keys": [{**key, "kid": alg, "alg": alg, "use": "sig"} for alg, key in keys.items()]}
        )

    def signature(self, algorithm, data):
        if algorithm == "EdDSA":
            return self.eddsa.sign(data)
        if algorithm == "ES256":
            r, s = utils.decode_dss_signature(self.es256.sign(data, ec.ECDSA(SHA256())))
            return r.to_bytes(32) + s.to_bytes(32)
        return self.rs256.sign(data, padding.PKCS1v15(), SHA256())

    def token(self, algorithm="EdDSA", lifetime_s=3600, **claims):
        """A token for `sub`; a claim that is None is left out."""
        whole = {"aud": AUDIENCE, "exp": int(time.time() + lifetime_s), **claims}
        whole = {name: value for name, value in whole.items() if value is not None}
        head = {"alg": algorithm, "kid": algorithm, "typ": "JWT"}
        signed = f"{text(json.dumps(head).encode())}.{text(json.dumps(whole).encode())}"
        return f"{signed}.{text(self.signature(algorithm, signed.encode()))}"
