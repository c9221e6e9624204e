"""Who says so: signatures over manifests and stores, in the format of OpenSSF model signing.

A bundle (`bundle`) carries one signature over one statement (`statement`) and says which key made it; what a key may do
is in `keys` and `certificates`, and in `keyless` where Sigstore vouches for it; whose word counts in `trust`, how many
must have signed in `demand`. `authority` puts them together: a manifest that may be believed.
"""
