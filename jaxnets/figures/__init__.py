"""Pictures of embeddings and of training: arrays in, a `matplotlib.figure.Figure` out.

Nothing here reads or writes a file, uses pyplot or changes a setting of matplotlib, so a background thread can draw.
The same arrays give the same PNG, byte for byte, under one version of matplotlib.
"""

from jaxnets.figures.angles import angle_histograms as angle_histograms
from jaxnets.figures.animation import animate as animate
from jaxnets.figures.comparison import ComparedNetwork as ComparedNetwork
from jaxnets.figures.comparison import comparison as comparison
from jaxnets.figures.confusion_matrix import confusion as confusion
from jaxnets.figures.contact_sheet import Panel as Panel
from jaxnets.figures.contact_sheet import sheet as sheet
from jaxnets.figures.mistakes import mistakes as mistakes
from jaxnets.figures.nearest_sheet import Found as Found
from jaxnets.figures.nearest_sheet import nearest_sheet as nearest_sheet
from jaxnets.figures.page import to_pixels as to_pixels
from jaxnets.figures.page import to_png as to_png
from jaxnets.figures.palette import class_colours as class_colours
from jaxnets.figures.plane import scatter as scatter
from jaxnets.figures.plane import scatter_radius as scatter_radius
from jaxnets.figures.recognition_curves import Series as Series
from jaxnets.figures.recognition_curves import cmc as cmc
from jaxnets.figures.recognition_curves import cosine_distributions as cosine_distributions
from jaxnets.figures.recognition_curves import figures_over_epochs as figures_over_epochs
from jaxnets.figures.recognition_curves import roc as roc
from jaxnets.figures.shares import shares as shares
from jaxnets.figures.step_losses import step_losses as step_losses
from jaxnets.figures.training_curves import curves as curves
from jaxnets.figures.unit_circle import circle as circle
