"""Whether synthetic pictures are copies of the pictures that the generator learnt."""
