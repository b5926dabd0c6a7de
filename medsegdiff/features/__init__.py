"""What pictures and lesions are like, in numbers: arrays in, arrays out; one definition a name."""
