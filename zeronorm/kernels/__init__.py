"""How numbers are moved fast: loops compiled by numba or Triton that know nothing of attacks and proofs."""
