"""Verifies a token of an instance: verify.py ISSUER AUDIENCE < TOKEN. Prints its claims, or says why not and ends with 1.

PyJWT finds the keys by `kid` and keeps them; SSL_CERT_FILE names a private CA."""
import json
import sys
import urllib.request

import jwt

issuer, audience = sys.argv[1:]
with urllib.request.urlopen(issuer.rstrip("/") + "/.well-known/openid-configuration", timeout=10) as answer:
    discovery = json.load(answer)
if discovery["issuer"] != issuer:
    sys.exit("the discovery document is of another issuer")
keys = jwt.PyJWKClient(discovery["jwks_uri"], timeout=10)
token = sys.stdin.read().strip()
try:
    claims = jwt.decode(
        token,
        keys.get_signing_key_from_jwt(token).key,
        algorithms=["RS256", "ES256", "ES384"],
        leeway=10,  # for clocks that do not agree
        audience=audience,
        issuer=issuer,
        options={"require": ["exp", "iat", "sub", "aud", "iss"]},
    )
except jwt.PyJWTError as refused:
    sys.exit(f"{type(refused).__name__}: {refused}")
print(json.dumps(claims))
