from .digits import load_digits_images as load_digits_images
from .image_set import ImageData as ImageData
from .imagefolder import load_image_folder as load_image_folder
from .mnist import load_mnist as load_mnist
from .mnist import read_idx as read_idx
