"""Who is who: keys, certificates, the membership list, signed requests, tokens, authorized_keys."""
